//! A certificate of this machine, by an authority that nobody else knows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::http::{end_of_head, serve};

pub(crate) struct Issued {
    /// The authority, as PEM.
    pub(crate) ca: String,
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

pub(crate) fn issued() -> Issued {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Bakehouse test CA");
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Issued { ca: pem, certificate, key }
}

pub(crate) type Stream = StreamOwned<ServerConnection, TcpStream>;

/// Serves by TLS, one request a connection: `handle` is given its head, and writes the answer. Returns the port.
pub(crate) fn serve_tls(issued: &Issued, handle: impl Fn(&str, &mut Stream) + Send + Sync + 'static) -> u16 {
    let key = PrivateKeyDer::Pkcs8(issued.key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    serve(move |client| {
        let Ok(connection) = ServerConnection::new(Arc::clone(&config)) else { return };
        let mut stream = StreamOwned::new(connection, client);
        let mut head = Vec::new();
        while end_of_head(&head).is_none() {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(read @ 1..) => head.extend_from_slice(&bytes[..read]),
                _ => return,
            }
        }
        handle(&String::from_utf8_lossy(&head), &mut stream);
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}
