//! Style sheet, script and sign of the page. They are part of the binary, and their names carry a hash of their
//! content, so that a browser keeps them for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// A file of the page.
pub(super) struct Asset {
    /// Where it is served.
    pub(super) path: String,
    kind: &'static str,
    content: &'static str,
}

/// The style sheet.
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| asset("page", "css", "text/css; charset=utf-8", include_str!("assets/page.css")));
/// The script that keeps the page up to date.
pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| asset("page", "js", "text/javascript; charset=utf-8", include_str!("assets/page.js")));
/// The sign in the browser's tab.
pub(super) static SIGN: LazyLock<Asset> =
    LazyLock::new(|| asset("sign", "svg", "image/svg+xml", include_str!("assets/sign.svg")));

fn asset(name: &str, ending: &str, kind: &'static str, content: &'static str) -> Asset {
    let hash = hex::encode(&Sha256::digest(content)[..6]);
    Asset { path: format!("/assets/{name}.{hash}.{ending}"), kind, content }
}

/// Serves one of them by its full name.
pub(super) async fn serve(Path(file): Path<String>) -> Response {
    let wanted = format!("/assets/{file}");
    let Some(asset) = [&STYLE, &SCRIPT, &SIGN].into_iter().find(|asset| asset.path == wanted) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, "private, max-age=31536000, immutable")];
    (headers, asset.content).into_response()
}
