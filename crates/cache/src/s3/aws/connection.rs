//! Connections: TLS by what this machine trusts, through a proxy where the environment names one.

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, ConnectorBuilder};

/// Makes a client. With `proxied` it heeds HTTPS_PROXY, HTTP_PROXY and NO_PROXY as every AWS tool does; this machine's own addresses never go through a proxy.
pub(super) fn client(proxied: bool) -> SharedHttpClient {
    let proxy = if proxied { ProxyConfig::from_env() } else { ProxyConfig::disabled() };
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder =
            ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::Ring)).proxy_config(proxy.clone());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.build()
    })
}
