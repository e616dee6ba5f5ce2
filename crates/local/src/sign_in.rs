//! Who may use the dashboard, for `giemsa up --oidc-issuer`.

pub(crate) mod authorizer;
pub(crate) mod issuer;
