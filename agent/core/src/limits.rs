//! Every limit of the pure rooms, by name. Each has a test just below and just above.

/// Files in one revision.
pub const MAX_FILES: usize = 20_000;
/// Folders below each other in one revision.
pub const MAX_DEPTH: usize = 32;
/// Bytes of one file of the deploy repository.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// Bytes of all files of one revision together.
pub const MAX_TREE_BYTES: u64 = 128 << 20;
/// Bytes of a file or folder name.
pub const MAX_NAME_BYTES: usize = 255;
/// Bytes of one template.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Tags times bytes of one template: the time to read it grows so.
pub const MAX_TEMPLATE_WORK: usize = 256 << 20;
/// Calls within calls in one tag of a template.
pub const MAX_CALL_DEPTH: usize = 16;
/// Bytes that one template may render to.
pub const MAX_TEMPLATE_OUTPUT_BYTES: usize = 4 << 20;
/// Bytes that one environment may render to.
pub const MAX_RENDERED_BYTES: usize = 64 << 20;
/// Steps (nodes rendered, loop rounds) that one template may take.
pub const MAX_TEMPLATE_STEPS: u64 = 2_000_000;
/// Values of one template that are not plainly harmless, and are held to their scalars.
pub const MAX_TEMPLATE_INSERTS: usize = 100_000;
/// Partials within partials.
pub const MAX_PARTIAL_DEPTH: usize = 32;
/// Blocks within blocks in one template source.
pub const MAX_BLOCK_DEPTH: usize = 64;
/// Blocks and partials within each other while one template is rendered.
pub const MAX_RENDER_DEPTH: usize = 128;
/// Nodes of one YAML document after its aliases are expanded.
pub const MAX_YAML_NODES: usize = 250_000;
/// Maps and lists within each other in one YAML document.
pub const MAX_YAML_DEPTH: usize = 64;
/// Bytes of one object, as JSON: the API server's own limit for a request is 3 MiB, etcd's 1.5 MiB.
pub const MAX_OBJECT_BYTES: usize = 1_500_000;
/// Objects of one environment.
pub const MAX_OBJECTS: usize = 20_000;
/// Characters of what is said about one object.
pub const MAX_MESSAGE_CHARACTERS: usize = 300;
/// Missing variables of one template that are named in one go.
pub const MAX_MISSING_VARIABLES: usize = 50;
/// Bytes of `.gitmodules`.
pub const MAX_GITMODULES_BYTES: usize = 64 << 10;
/// Submodules of one revision.
pub const MAX_SUBMODULES: usize = 1_000;
/// Rules for the health of kinds in one Environment.
pub const MAX_HEALTH_RULES: usize = 50;
/// Bytes of one expression of a health rule.
pub const MAX_EXPRESSION_BYTES: usize = 2048;
/// Parts within parts of one expression.
pub const MAX_EXPRESSION_DEPTH: usize = 48;
/// Loops (`exists`, `all`, `map`, `filter`) within loops of one expression.
pub const MAX_EXPRESSION_LOOPS: usize = 3;
/// Steps that one expression may take for one object, by an estimate that is never too low. A step takes well below a
/// microsecond.
pub const MAX_EXPRESSION_STEPS: u64 = 2_000_000;
/// Lines of a failing container's log that are shown.
pub const MAX_LOG_LINES: usize = 10;
/// Bytes of these lines together.
pub const MAX_LOG_BYTES: usize = 1 << 10;
/// Hooks of one environment.
pub const MAX_HOOKS: usize = 20;
/// The least `ttlSecondsAfterFinished` of a hook: a busy agent must see its end before the Job goes.
pub const MIN_HOOK_KEPT_SECONDS: i64 = 60;
/// Lines of a hook's log that a sync's record keeps, from the end.
pub const MAX_HOOK_LOG_LINES: usize = 20;
/// Bytes of a hook's log that a sync's record keeps.
pub const MAX_HOOK_LOG_BYTES: usize = 2 << 10;
