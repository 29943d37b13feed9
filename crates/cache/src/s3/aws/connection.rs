//! Connections: TLS by what this machine trusts, or by what `AWS_CA_BUNDLE` names instead; through a proxy where the environment names one.

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, ConnectorBuilder};

use crate::authorities::{Authorities, BadAuthorities};

/// Where every AWS tool is told whom to believe instead of whom the machine believes.
const BUNDLE: &str = "AWS_CA_BUNDLE";

/// Finds out whom to believe about names of hosts.
///
/// # Errors
/// The environment names a file, and no authority is in it.
pub(super) fn believed() -> Result<TlsContext, BadAuthorities> {
    let mut context = TlsContext::builder();
    if let Some(path) = std::env::var_os(BUNDLE).filter(|path| !path.is_empty()) {
        let bundle = Authorities::read(path.as_ref())?;
        context = context.with_trust_store(TrustStore::empty().with_pem_certificate(bundle.pem()));
    }
    Ok(context.build().expect("what it is made of was checked"))
}

/// Makes a client. With `proxied` it heeds HTTPS_PROXY, HTTP_PROXY and NO_PROXY as every AWS tool does; this machine's own addresses never go through a proxy.
pub(super) fn client(proxied: bool, believed: &TlsContext) -> SharedHttpClient {
    let believed = believed.clone();
    let proxy = if proxied { ProxyConfig::from_env() } else { ProxyConfig::disabled() };
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = ConnectorBuilder::default()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(believed.clone())
            .proxy_config(proxy.clone());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.build()
    })
}
