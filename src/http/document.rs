//! What all operations share in the OpenAPI document: refusals as problem details. Keys are in `openapi`.
//!
//! Handlers state what is theirs; what happens before a handler is reached (key, path, media type, size) is added here, so
//! that no operation forgets it. `scripts/schemathesis` holds the service to the document.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema};

const PROBLEM: &str = "#/components/schemas/Problem";
const PROBLEM_MEDIA: &str = "application/problem+json";

/// States for every operation that what is not as the document says is refused.
pub(super) fn refuse_what_is_wrong(document: &mut OpenApi) {
    for operation in operations(document) {
        add(operation, "400", "something in the request is not as this document says");
    }
}

/// Completes every operation: problems have their media type, bodies what may be wrong with them.
pub(super) fn complete(document: &mut OpenApi) {
    for operation in operations(document) {
        if operation.request_body.is_some() {
            add(operation, "413", "the body is longer than server.max_body_bytes, or a text in it too long");
            add(operation, "415", "the body is not sent as application/json");
        }
        for response in operation.responses.responses.values_mut() {
            let RefOr::T(response) = response else { continue };
            response.content = std::mem::take(&mut response.content).into_iter().map(with_media_type).collect();
        }
    }
}

fn with_media_type((media_type, content): (String, Content)) -> (String, Content) {
    let is_problem = matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location == PROBLEM);
    (if is_problem { PROBLEM_MEDIA.to_owned() } else { media_type }, content)
}

/// States a refusal, unless the handler says more about it.
fn add(operation: &mut Operation, status: &str, description: &str) {
    let problem = || -> RefOr<Response> {
        let schema: RefOr<Schema> = Ref::new(PROBLEM).into();
        let content = Content::new(Some(schema));
        ResponseBuilder::new().description(description).content(PROBLEM_MEDIA, content).build().into()
    };
    operation.responses.responses.entry(status.to_owned()).or_insert_with(problem);
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item: &mut PathItem| {
        [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
    })
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathsBuilder};
    use utoipa::openapi::request_body::RequestBodyBuilder;
    use utoipa::openapi::{InfoBuilder, OpenApiBuilder};

    use super::*;

    #[test]
    fn refusals_before_the_handler_are_stated_and_those_of_the_handler_kept() {
        let own: RefOr<Schema> = Ref::new(PROBLEM).into();
        let refusal =
            ResponseBuilder::new().description("its own").content("application/json", Content::new(Some(own)));
        let operation = OperationBuilder::new()
            .request_body(Some(RequestBodyBuilder::new().build()))
            .response("400", refusal.build())
            .response("200", ResponseBuilder::new().content("application/json", Content::default()).build());
        let item = PathItem::new(HttpMethod::Post, operation.build());
        let paths = PathsBuilder::new().path("/v1/x", item).build();
        let mut document = OpenApiBuilder::new().info(InfoBuilder::new().build()).paths(paths).build();
        refuse_what_is_wrong(&mut document);
        complete(&mut document);
        let json = serde_json::to_value(&document).expect("a document");
        let stated = &json["paths"]["/v1/x"]["post"];
        for status in ["400", "413", "415"] {
            let content = &stated["responses"][status]["content"];
            assert_eq!(content["application/problem+json"]["schema"]["$ref"], PROBLEM, "{status}: {stated}");
        }
        assert_eq!(stated["responses"]["400"]["description"], "its own");
        assert!(stated["responses"]["200"]["content"].get("application/json").is_some());
    }
}
