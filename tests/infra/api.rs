//! Routes of the dashboard: only the page answers without a token.

use serde_json::Value as Json;

use giemsa_config::DashboardConfig;

use super::functions::{as_deployed, timeout_s};
use super::template::{Template, read, texts};

/// Method, path and whether a token is needed.
fn routes(template: &Template<'_>) -> Vec<(String, String, bool)> {
    let names = template.of_type("AWS::ApiGatewayV2::Route");
    let route = |name: String| {
        let properties = template.properties(&name);
        let key = properties["RouteKey"].as_str().unwrap().to_owned();
        let (method, path) = key.split_once(' ').unwrap_or_else(|| panic!("{key} fits everything"));
        let needs_token = match properties["AuthorizationType"].as_str().unwrap() {
            "JWT" => properties["AuthorizerId"] == "${SignIn}",
            "NONE" => false,
            other => panic!("{name}: {other}"),
        };
        (method.to_owned(), path.to_owned(), needs_token)
    };
    names.into_iter().map(route).collect()
}

#[test]
fn only_one_step_below_the_root_answers_without_a_token() {
    let mut open = routes(&Template::default());
    open.retain(|(_, _, needs_token)| !needs_token);
    let open: Vec<(&str, &str)> = open.iter().map(|(method, path, _)| (&**method, &**path)).collect();
    assert_eq!(open, [("GET", "/"), ("GET", "/{file}")]);
}

#[test]
fn every_question_of_the_api_has_a_route_that_needs_a_token() {
    let routes = routes(&Template::default());
    let document: Json = serde_json::from_str(&read("docs/openapi.json")).unwrap();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        for method in
            methods.filter(|method| ["get", "post", "put", "patch", "delete"].contains(&method.as_str()))
        {
            let fits = |(of, route, needs_token): &(String, String, bool)| {
                *of == method.to_uppercase() && route == "/api/{proxy+}" && *needs_token
            };
            let is_page = path.matches('/').count() == 1;
            assert!(path.starts_with("/api/") || is_page, "{path} has no route");
            assert!(is_page || routes.iter().any(fits), "{method} {path} has no route");
            asked += 1;
        }
    }
    assert!(asked > 20);
}

#[test]
fn every_file_of_the_page_is_one_step_deep() {
    let page = read("web/page/index.html");
    let assets = read("crates/dashboard/src/page/assets.rs");
    let views = assets.lines().find(|line| line.starts_with("const VIEWS")).unwrap();
    for path in views.split('"').skip(1).step_by(2) {
        assert_eq!(path.matches('/').count(), 1, "{path}");
    }
    for link in page.split(['"', '\'']).filter(|part| part.ends_with(".js") || part.ends_with(".css")) {
        assert_eq!(link.matches('/').count(), 1, "{link}");
    }
    assert!(assets.contains(r#"format!("/{}", asset.name)"#), "files are named by their name alone");
}

#[test]
fn tokens_are_of_the_issuer_and_client_that_the_page_signs_in_with() {
    let own = [
        ("OidcIssuer", "https://login.lab.example/"),
        ("OidcClientId", "giemsa"),
        ("OidcOrigins", "https://token.lab.example"),
    ];
    for parameters in [&[][..], &own] {
        let template = Template::with(parameters);
        let settings = super::functions::settings(&template, "Dashboard");
        let setting = |name: &str| settings.iter().find(|(known, _)| known == name).unwrap().1.clone();
        let jwt = template.properties("SignIn")["JwtConfiguration"].clone();
        assert_eq!(as_deployed(jwt["Issuer"].as_str().unwrap()), setting("GIEMSA_OIDC_ISSUER"));
        assert_eq!(as_deployed(jwt["Audience"][0].as_str().unwrap()), setting("GIEMSA_OIDC_CLIENT_ID"));
        assert_eq!(setting("GIEMSA_OIDC_ISSUER").contains("cognito-idp"), parameters.is_empty());
        // Where the page gets tokens, which its policy has to allow.
        let config = DashboardConfig::from_lookup(|name| {
            settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        });
        let expected = match parameters.is_empty() {
            true => [
                "https://cognito-idp.eu-central-1.amazonaws.com",
                "https://giemsa-51af3dc0.auth.eu-central-1.amazoncognito.com",
            ],
            false => ["https://login.lab.example", "https://token.lab.example"],
        };
        assert_eq!(config.unwrap().sign_in.origins(), expected);
    }
    let client = Template::default().properties("UserPoolClient");
    assert_eq!(client["GenerateSecret"], false, "a page keeps no secret");
    assert_eq!(texts(&client["AllowedOAuthFlows"]), ["code"]);
    let page = read("web/page/session.js");
    let asked = format!("const SCOPE = \"{}\";", texts(&client["AllowedOAuthScopes"]).join(" "));
    assert!(page.contains(&asked), "the page asks for other scopes than {asked}");
    // Where the page comes back to, in both cases.
    assert!(page.contains("const home = () => `${location.origin}/`;"));
    for addresses in ["CallbackURLs", "LogoutURLs"] {
        let [address] = &texts(&client[addresses])[..] else { panic!("{addresses}") };
        let origin = address.strip_suffix('/').unwrap();
        assert_eq!(origin.matches('/').count(), 2, "{addresses}: {address}");
    }
    let pool = Template::default().properties("UserPool");
    assert_eq!(pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"], true);
}

#[test]
fn the_api_waits_longer_than_the_function_takes() {
    let template = Template::default();
    let waits_ms = template.properties("DashboardIntegration")["TimeoutInMillis"].as_u64().unwrap();
    assert!(waits_ms <= 30_000, "API Gateway's most");
    assert!(timeout_s(&template, "Dashboard") * 1000 < waits_ms);
    assert_eq!(template.properties("DashboardIntegration")["PayloadFormatVersion"], "2.0");
}
