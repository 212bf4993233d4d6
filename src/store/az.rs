//! Containers of Azure Blob Storage. The storage account is that of the environment, or of the endpoint.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::client::{Chain, Reach};
use super::error::{At, Fault, StoreError};

pub(super) async fn open(reach: &Reach<'_>, at: &At, container: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let configured = configured(MicrosoftAzureBuilder::from_env(), reach, container);
    if configured.get_config_value(&AzureConfigKey::AccountName).is_none_or(|name| name.is_empty()) {
        let said = "no storage account is named: set AZURE_STORAGE_ACCOUNT_NAME, or spec.storage.endpoint to https://ACCOUNT.blob.core.windows.net";
        return Err(at.fault(Fault::NoCredentials, said));
    }
    let chain = chain(&configured);
    // The client's own words would repeat parts of the key.
    let unread =
        |_| at.fault(Fault::NoCredentials, "the key or the signature that AZURE_STORAGE_… gives cannot be read");
    let open = configured.build().map_err(unread)?;
    chain.check(at, open.credentials().get_credential()).await?;
    Ok(Arc::new(open))
}

fn configured(variables: MicrosoftAzureBuilder, reach: &Reach<'_>, container: &str) -> MicrosoftAzureBuilder {
    let value = |key| variables.get_config_value(&key).filter(|value| !value.is_empty());
    let endpoint = reach.endpoint().map(ToOwned::to_owned).or_else(|| value(AzureConfigKey::Endpoint));
    let account = value(AzureConfigKey::AccountName).or_else(|| endpoint.as_deref().and_then(account));
    let mut builder = variables
        .with_container_name(container)
        .with_client_options(reach.options(endpoint.as_deref()))
        .with_retry(reach.retries());
    if let Some(account) = account {
        builder = builder.with_account(account);
    }
    match endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()),
        None => builder,
    }
}

/// The storage account that an address names: in the host of Azure itself, and in the path of everybody else.
fn account(endpoint: &str) -> Option<String> {
    let (_, rest) = endpoint.split_once("://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let named = match host.split_once(".blob.") {
        Some((account, _)) => account,
        None => path.split('/').next().unwrap_or_default(),
    };
    (!named.is_empty()).then(|| named.to_owned())
}

fn chain(builder: &MicrosoftAzureBuilder) -> Chain {
    let set = |key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
    let keys = [AzureConfigKey::AccessKey, AzureConfigKey::SasKey, AzureConfigKey::Token];
    if builder.get_config_value(&AzureConfigKey::SkipSignature).as_deref() == Some("true") {
        Chain::Unsigned
    } else if keys.into_iter().any(set) {
        Chain::Keys
    } else if set(AzureConfigKey::FederatedTokenFile) || set(AzureConfigKey::ClientSecret) {
        Chain::Identity
    } else {
        Chain::Instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bakejob::Storage;

    #[test]
    fn the_account_stands_in_the_host_of_azure_and_in_the_path_of_others() {
        for (endpoint, named) in [
            ("https://models.blob.core.windows.net", Some("models")),
            ("https://models.blob.core.chinacloudapi.cn/", Some("models")),
            ("http://127.0.0.1:10000/devstoreaccount1", Some("devstoreaccount1")),
            ("http://azurite:10000/models/", Some("models")),
            ("https://storage.example.com", None),
        ] {
            assert_eq!(account(endpoint).as_deref(), named, "{endpoint}");
        }
    }

    #[test]
    fn an_account_of_the_environment_goes_before_that_of_the_endpoint() {
        let storage = Storage {
            endpoint: Some("http://azurite:10000/models/".into()),
            region: None,
            path_style: None,
            ca_bundle: None,
            credentials: None,
        };
        let reach = Reach::plain(Some(&storage));
        let value = |variables, key| configured(variables, &reach, "data").get_config_value(&key);
        let new = MicrosoftAzureBuilder::new;
        assert_eq!(value(new(), AzureConfigKey::AccountName).as_deref(), Some("models"));
        assert_eq!(value(new().with_account("own"), AzureConfigKey::AccountName).as_deref(), Some("own"));
        assert_eq!(value(new(), AzureConfigKey::Endpoint).as_deref(), Some("http://azurite:10000/models"));
    }

    #[test]
    fn a_key_goes_before_an_identity() {
        let identity = MicrosoftAzureBuilder::new().with_federated_token_file("/var/token");
        assert_eq!(chain(&identity), Chain::Identity);
        assert_eq!(chain(&identity.with_access_key("a2V5")), Chain::Keys);
        assert_eq!(chain(&MicrosoftAzureBuilder::new()), Chain::Instance);
    }
}
