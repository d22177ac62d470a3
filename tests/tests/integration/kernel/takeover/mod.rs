//! Taking over from a guard of another layout.

mod faults;
mod upgrades;

use guard_tests::node::{Node, POLICY, enforcing, policy_with_a_first_service};

/// Starts a node, and removes the first service of its policy: the others keep slots that a fresh compile
/// would not give them.
fn without_the_first_service(test: &str) -> Option<Node> {
    let mut node = Node::new(test)?;
    node.write("policy.yaml", &policy_with_a_first_service());
    node.start(&[]);
    node.wait("enforcing", enforcing);
    node.write("policy.yaml", POLICY);
    node.wait("without the first service", |status| status["generation"] == 2);
    node.assert_guarded();
    Some(node)
}
