//! Buckets of S3, and of what speaks like it.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3CopyIfNotExists};

use super::client::{Chain, Reach};
use super::error::{At, Fault, StoreError};

pub(super) async fn open(reach: &Reach<'_>, at: &At, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let variables = AmazonS3Builder::from_env();
    let chain = chain(&variables).ok_or_else(|| {
        at.fault(Fault::NoCredentials, "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set")
    })?;
    let open = configured(variables, reach, bucket).build().map_err(|error| at.failed(error))?;
    chain.check(at, open.credentials().get_credential()).await?;
    Ok(Arc::new(open))
}

fn configured(variables: AmazonS3Builder, reach: &Reach<'_>, bucket: &str) -> AmazonS3Builder {
    let variable = |key| variables.get_config_value(&key).filter(|value| !value.is_empty());
    let endpoint = reach
        .endpoint()
        .map(ToOwned::to_owned)
        .or_else(|| variable(AmazonS3ConfigKey::S3Endpoint))
        .or_else(|| variable(AmazonS3ConfigKey::Endpoint));
    // A bucket's own host name is what AWS prefers; its certificate does not cover a dot in the name. Other servers seldom have such names.
    let own_style = reach.storage().and_then(|s| s.path_style);
    let path_style = own_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
    let mut builder = variables
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!path_style)
        // The plain request that every S3 has; there are few files.
        .with_disable_bulk_delete(true)
        // What is copied so has no type of its own to lose.
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_client_options(reach.options(endpoint.as_deref()))
        .with_retry(reach.retries());
    if let Some(region) = reach.storage().and_then(|s| s.region.as_ref()) {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = endpoint {
        let address = if path_style { endpoint } else { hosted(&endpoint, bucket) };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, address);
    }
    builder
}

/// The address of a bucket that has a host name of its own.
fn hosted(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("{bucket}.{endpoint}"),
    }
}

/// `None` when one of two keys is missing.
fn chain(variables: &AmazonS3Builder) -> Option<Chain> {
    let set = |key| variables.get_config_value(&key).is_some_and(|value| !value.is_empty());
    let keys = [set(AmazonS3ConfigKey::AccessKeyId), set(AmazonS3ConfigKey::SecretAccessKey)];
    let identity =
        ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    if variables.get_config_value(&AmazonS3ConfigKey::SkipSignature).as_deref() == Some("true") {
        Some(Chain::Unsigned)
    } else if keys.contains(&true) {
        (!keys.contains(&false)).then_some(Chain::Keys)
    } else if identity.iter().any(|name| std::env::var_os(name).is_some()) {
        Some(Chain::Identity)
    } else {
        Some(Chain::Instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::Storage;

    fn storage(endpoint: Option<&str>, path_style: Option<bool>) -> Storage {
        Storage {
            endpoint: endpoint.map(Into::into),
            region: Some("eu-north-1".into()),
            path_style,
            ca_bundle: None,
            credentials: None,
        }
    }

    /// Endpoint and virtual hosting that a bucket is asked with.
    fn asked(storage: &Storage, bucket: &str) -> (Option<String>, bool) {
        let builder = configured(AmazonS3Builder::new(), &Reach::plain(Some(storage)), bucket);
        let value = |key| builder.get_config_value(&key);
        assert_eq!(value(AmazonS3ConfigKey::Region).as_deref(), Some("eu-north-1"));
        let hosted = value(AmazonS3ConfigKey::VirtualHostedStyleRequest).as_deref() == Some("true");
        (value(AmazonS3ConfigKey::S3Endpoint), hosted)
    }

    #[test]
    fn a_bucket_is_in_the_path_of_a_server_of_ones_own_and_in_the_host_name_of_aws() {
        let minio = Some("http://minio:9000");
        assert_eq!(asked(&storage(minio, None), "data"), (Some("http://minio:9000".into()), false));
        assert_eq!(asked(&storage(minio, Some(true)), "data"), (Some("http://minio:9000".into()), false));
        assert_eq!(asked(&storage(minio, Some(false)), "data"), (Some("http://data.minio:9000".into()), true));
        assert_eq!(asked(&storage(None, None), "data"), (None, true));
        assert_eq!(asked(&storage(None, None), "data.v2"), (None, false));
        assert_eq!(asked(&storage(None, Some(true)), "data"), (None, false));
    }

    #[test]
    fn an_endpoint_of_the_job_goes_before_that_of_the_environment() {
        let variables = AmazonS3Builder::new().with_config(AmazonS3ConfigKey::S3Endpoint, "https://other");
        let endpoint = |storage: Option<&Storage>| {
            configured(variables.clone(), &Reach::plain(storage), "data")
                .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        };
        assert_eq!(endpoint(Some(&storage(Some("https://s3"), None))).as_deref(), Some("https://s3"));
        assert_eq!(endpoint(None).as_deref(), Some("https://other"));
    }

    #[test]
    fn half_a_key_is_none() {
        let half = AmazonS3Builder::new().with_access_key_id("id");
        assert_eq!(chain(&half), None);
        assert_eq!(chain(&half.with_secret_access_key("secret")), Some(Chain::Keys));
        assert_eq!(chain(&AmazonS3Builder::new().with_skip_signature(true)), Some(Chain::Unsigned));
    }
}
