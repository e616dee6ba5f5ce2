// ESLint's recommended rules for the page, whose globals are a browser's.

import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  { files: ["page/*.js"], languageOptions: { globals: globals.browser }, linterOptions: { reportUnusedDisableDirectives: "error" } },
];
