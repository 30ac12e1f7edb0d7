//! What the OpenAPI document says of keys, the same for every guarded route.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

use super::auth::SCOPES;

/// Name of the security scheme in the document.
const SCHEME: &str = "key";
const SCHEME_TEXT: &str = "An API key: `Authorization: Bearer rsp_...`. Administrators make keys on /desk/keys or with \
                           `respondo key add`. Each route names the scope that its key needs; `all` opens every route. Without \
                           any key, on loopback only, none is asked for.";

/// Adds the security scheme, and to each guarded route its scope and how it refuses keys.
pub fn describe_keys(document: &mut OpenApi) {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(SCHEME_TEXT)).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    for (method, path, scope) in SCOPES {
        let item = document.paths.paths.get_mut(*path);
        let Some(operation) = item.and_then(|item| operation(item, method)) else { continue };
        // Names of roles may stand here since OpenAPI 3.1.
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, [scope.name()])]);
        let refusals = [
            ("401", "the key is missing, unknown or over".to_owned()),
            ("403", format!("the key lacks the scope `{scope}`, or is another customer's")),
            (
                "429",
                "too many requests with this key, too many wrong keys, or too much is waiting; Retry-After says when"
                    .to_owned(),
            ),
        ];
        for (status, description) in refusals {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let response =
                ResponseBuilder::new().description(description).content("application/problem+json", content).build();
            operation.responses.responses.insert(status.to_owned(), RefOr::T(response));
        }
    }
}

fn operation<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        "get" => item.get.as_mut(),
        "post" => item.post.as_mut(),
        "put" => item.put.as_mut(),
        "patch" => item.patch.as_mut(),
        "delete" => item.delete.as_mut(),
        _ => None,
    }
}
