//! A certificate of this machine, by an authority that nobody else knows.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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
