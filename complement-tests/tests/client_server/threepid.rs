//! E-mail addresses and phone numbers of an account, on a server that can send neither.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use complement_tests::Server;
use serde_json::json;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3account3pid>
#[tokio::test]
async fn a_new_account_has_none() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    assert_eq!(alice.get("account/3pid").await.ok(), json!({ "threepids": [] }));
    server.anonymous().get("account/3pid").await.fails(401, "M_MISSING_TOKEN");
}

/// Without a mail server there is nothing to wait for: the client is told at once.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidemailrequesttoken>
#[tokio::test]
async fn asking_for_a_mail_is_refused_where_none_can_be_sent() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let body = json!({
        "client_secret": "s3cret", "email": "alice@example.org", "send_attempt": 1,
    });
    for path in [
        "register/email/requestToken",
        "account/password/email/requestToken",
        "account/3pid/email/requestToken",
    ] {
        let answer = alice.post(path, body.clone()).await;
        assert!([400, 403].contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty() && answer.errcode() != "M_UNRECOGNIZED", "{answer}");
    }
}

/// There is no sending of text messages at all.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidmsisdnrequesttoken>
#[tokio::test]
async fn asking_for_a_text_message_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let body = json!({
        "client_secret": "s3cret", "country": "GB", "phone_number": "07700900001", "send_attempt": 1,
    });
    for path in [
        "register/msisdn/requestToken",
        "account/password/msisdn/requestToken",
        "account/3pid/msisdn/requestToken",
    ] {
        let answer = alice.post(path, body.clone()).await;
        assert!([400, 403].contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty() && answer.errcode() != "M_UNRECOGNIZED", "{answer}");
    }
}

/// An address that was not validated is not added, even with the password proved.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidadd>
#[tokio::test]
async fn an_unproved_address_is_not_added() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mut body = json!({ "client_secret": "s3cret", "sid": "unknown" });
    let first = alice.post("account/3pid/add", body.clone()).await;
    if first.status == 401 {
        body["auth"] = alice.password_proof(&first.json);
        let answer = alice.post("account/3pid/add", body).await;
        assert!([400, 403].contains(&answer.status), "{answer}");
    } else {
        assert!([400, 403].contains(&first.status), "{first}");
    }
    assert_eq!(alice.get("account/3pid").await.ok(), json!({ "threepids": [] }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3piddelete>
#[tokio::test]
async fn deleting_an_address_needs_an_account() {
    let server = Server::shared();
    let body = json!({
        "medium": "email", "address": "alice@example.org", "client_secret": "s3cret",
        "id_server": "id.example.org", "id_access_token": "t", "sid": "1",
    });
    for path in ["account/3pid/delete", "account/3pid/unbind", "account/3pid/bind"] {
        server.anonymous().post(path, body.clone()).await.fails(401, "M_MISSING_TOKEN");
    }
}
