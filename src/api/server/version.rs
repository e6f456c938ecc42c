//! Which software this is.

use ruma::api::federation::discovery::get_server_version::v1::{
    Request, Response, Server as Software,
};

use crate::api::extract::{Public, Ruma};

/// `GET /_matrix/federation/v1/version`
pub(crate) async fn get_server_version(Public { .. }: Public<Request>) -> Ruma<Response> {
    let mut software = Software::new();
    software.name = Some("myelin".to_owned());
    software.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = Response::new();
    response.server = Some(software);
    Ruma(response)
}
