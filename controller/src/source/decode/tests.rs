use super::*;
#[test]
fn explore() {
    for text in [
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n  action: Deny\n  rulez: []\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n  action: Denyy\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n  rules:\n  - from:\n    - identitees: []\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: x}\nspec:\n  ports:\n  - port: http\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: x}\nspec:\n  ports:\n  - port: 99999999\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {name: x}\nspec: {}\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {name: x}\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n name: y\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  name: y\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n",
        "apiVersion: v1\nkind: Service\nmetadata: [1, 2\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  ports:\n  - port: 80\n    targetPort: [1]\n",
        "- a\n- b\n",
        "hello",
        "a: &a [*a]\n",
        "{{{",
        "apiVersion: {}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: null\n",
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n  rules:\n  - to:\n    - paths: [{typ: 1}]\n",
    ] {
        let d = decode(&Arc::new("f.yaml".into()), text);
        println!("--- {text:?}");
        for p in d.problems {
            println!("    {p}");
        }
    }
}
