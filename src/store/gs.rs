//! Buckets of Google Cloud Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use super::client::{Chain, Reach};
use super::error::{At, Fault, StoreError};

/// Where `gcloud auth application-default login` leaves what a person may do.
const PERSON: &str = ".config/gcloud/application_default_credentials.json";

pub(super) async fn open(reach: &Reach<'_>, at: &At, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let variables = GoogleCloudStorageBuilder::from_env();
    let chain = chain(&variables);
    // The client's own words would repeat parts of the key.
    let unread = |_| {
        let said = "what GOOGLE_SERVICE_ACCOUNT_KEY, GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS gives is no key of a service account";
        at.fault(Fault::NoCredentials, said)
    };
    let open = configured(variables, reach, bucket).build().map_err(unread)?;
    chain.check(at, open.credentials().get_credential()).await?;
    Ok(Arc::new(open))
}

fn configured(variables: GoogleCloudStorageBuilder, reach: &Reach<'_>, bucket: &str) -> GoogleCloudStorageBuilder {
    let builder = variables
        .with_bucket_name(bucket)
        .with_client_options(reach.options(reach.endpoint()))
        .with_retry(reach.retries());
    match reach.endpoint() {
        Some(endpoint) => builder.with_base_url(endpoint.trim_end_matches('/')),
        None => builder,
    }
}

fn chain(variables: &GoogleCloudStorageBuilder) -> Chain {
    let value = |key| variables.get_config_value(&key).filter(|value| !value.is_empty());
    let named = [
        GoogleConfigKey::ServiceAccount,
        GoogleConfigKey::ServiceAccountKey,
        GoogleConfigKey::ApplicationCredentials,
        GoogleConfigKey::BearerToken,
    ];
    if value(GoogleConfigKey::SkipSignature).as_deref() == Some("true") {
        Chain::Unsigned
    } else if named.into_iter().any(|key| value(key).is_some())
        || std::env::home_dir().is_some_and(|home| home.join(PERSON).is_file())
    {
        Chain::Identity
    } else {
        // On GKE this is the workload's identity.
        Chain::Instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::Storage;

    #[test]
    fn the_endpoint_of_the_job_is_asked() {
        let storage = Storage {
            endpoint: Some("http://store:4443/".into()),
            region: None,
            path_style: None,
            ca_bundle: None,
            credentials: None,
        };
        let builder = configured(GoogleCloudStorageBuilder::new(), &Reach::plain(Some(&storage)), "data");
        assert_eq!(builder.get_config_value(&GoogleConfigKey::BaseUrl).as_deref(), Some("http://store:4443"));
        let builder = configured(GoogleCloudStorageBuilder::new(), &Reach::plain(None), "data");
        assert_eq!(builder.get_config_value(&GoogleConfigKey::BaseUrl), None);
        assert_eq!(builder.get_config_value(&GoogleConfigKey::Bucket).as_deref(), Some("data"));
    }

    #[test]
    fn what_somebody_named_is_exchanged_for_a_token_before_the_store_is_asked() {
        let new = GoogleCloudStorageBuilder::new;
        assert_eq!(chain(&new().with_service_account_key("{}")), Chain::Identity);
        assert_eq!(chain(&new().with_application_credentials("/var/key.json")), Chain::Identity);
        assert_eq!(chain(&new().with_skip_signature(true)), Chain::Unsigned);
    }
}
