//! Images are looked up before an environment moves to them: on a real registry.

use support::registry::{Access, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_the_tests_takes_images_and_gives_them_up() {
    for access in [Access::Open, Access::Password, Access::Token, Access::Tls] {
        let folder = tempfile::tempdir().unwrap();
        let registry =
            Registry::start(folder.path(), access).await.unwrap_or_else(|error| panic!("{access:?}: {error:?}"));
        let digest = registry.push("shop/web", "v1", "one").await;
        assert_eq!(registry.push("shop/web", "v2", "one").await, digest);
        registry.delete("shop/web", &digest).await;
    }
}
