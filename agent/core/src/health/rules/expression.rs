//! One expression in CEL: read, weighed, and asked of an object.
//!
//! The interpreter counts no steps. So what could make a value grow is refused, and what is left is weighed: an estimate
//! that is never too low says for each object whether it may be run.
//!
//! The crate has two parsers. The one made by ANTLR calls itself without a limit when it mends an error, and so ends the
//! process on some texts of 200 bytes; the one used here has a limit for that.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::objects::{Key, Map};
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, IdedExpr};
use serde_json::Value;

use crate::limits::{MAX_EXPRESSION_BYTES, MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_LOOPS, MAX_EXPRESSION_STEPS};
use crate::revision::clean_line;

/// One expression, read and weighed.
pub(super) struct Expression {
    expression: IdedExpr,
    /// The variables that it names.
    variables: Vec<String>,
    /// How many steps it takes within how many loops.
    steps: Vec<u64>,
    /// Elements of the longest list that it may have written down itself.
    length: u64,
}

/// An object as expressions see it.
pub(super) struct Facts<'a> {
    object: &'a Value,
    /// How many values it is made of.
    values: u64,
    /// The length of its longest list, map or text; 64 bytes of a text weigh as much as one element.
    longest: u64,
}

impl<'a> Facts<'a> {
    pub(super) fn of(object: &'a Value) -> Facts<'a> {
        let (mut values, mut longest) = (0, 1);
        let mut open = vec![object];
        while let Some(value) = open.pop() {
            values += 1;
            let length = match value {
                Value::Array(items) => {
                    open.extend(items);
                    items.len()
                }
                Value::Object(fields) => {
                    open.extend(fields.values());
                    fields.len()
                }
                Value::String(text) => text.len() / 64,
                _ => 0,
            };
            longest = longest.max(length as u64);
        }
        Facts { object, values, longest }
    }
}

/// The standard functions and macros of CEL, and optional values.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// What an expression may call. Functions that can make a text longer than what they are given are not among them.
const FUNCTIONS: [&str; 19] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "type",
    "dyn",
    "has",
    "hasValue",
    "value",
    "or",
    "orValue",
    "of",
    "none",
];

impl Expression {
    /// # Errors
    /// Why it cannot be read, or may not be run.
    pub(super) fn read(text: &str) -> Result<Expression, String> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(format!("more than {MAX_EXPRESSION_BYTES} bytes"));
        }
        let parser = PrattParser::new()
            .enable_optional_syntax(true)
            .max_recursion_depth(MAX_EXPRESSION_DEPTH as u16)
            .max_expression_node_count(4 * MAX_EXPRESSION_BYTES);
        // A fault of the parser or the interpreter must not end the watch that an object came by.
        let parsed = catch_unwind(AssertUnwindSafe(|| parser.parse(text)));
        let expression = parsed.map_err(|_| "it cannot be read".to_owned())?.map_err(|errors| {
            let first = errors.errors.first().map(|error| {
                let (line, column) = error.pos;
                format!("{} at {line}:{column}", first_line(&error.msg))
            });
            first.unwrap_or_else(|| "it is no expression".to_owned())
        })?;
        let mut weighed = Weighed { variables: Vec::new(), steps: Vec::new() };
        weighed.weigh(&expression)?;
        Ok(Expression { variables: weighed.variables, steps: weighed.steps, length: text.len() as u64, expression })
    }

    /// # Errors
    /// Why that cannot be said. No value of the object is repeated.
    pub(super) fn is_true(&self, facts: &Facts<'_>) -> Result<bool, String> {
        if self.estimate(facts) > MAX_EXPRESSION_STEPS {
            return Err("it takes too many steps for an object of this size".to_owned());
        }
        let mut context = Context::with_env(ENV.clone());
        for name in &self.variables {
            let value = if name == "self" { Some(facts.object) } else { facts.object.get(name) };
            if let Some(value) = value {
                context.add_variable_from_value(name, converted(value));
            }
        }
        let resolved = catch_unwind(AssertUnwindSafe(|| cel::Value::resolve(&self.expression, &context)));
        match resolved.map_err(|_| "it cannot be evaluated".to_owned())? {
            Ok(cel::Value::Bool(is_true)) => Ok(is_true),
            Ok(_) => Err("it is neither true nor false".to_owned()),
            Err(error) => Err(match error {
                ExecutionError::NoSuchKey(name) => format!("there is no field {name}; ask for it with has(…) first"),
                ExecutionError::UndeclaredReference(name) => format!("the object has no {name}"),
                ExecutionError::NoSuchOverload(error) => clean_line(&error.to_string(), 200),
                ExecutionError::UnexpectedType { got, want } => format!("{want} is needed, and there is {got}"),
                ExecutionError::IndexOutOfBounds(_) => "a list is shorter than that".to_owned(),
                _ => "it cannot be evaluated".to_owned(),
            }),
        }
    }

    /// At most how many steps it takes: an outer loop touches every value, an inner one each element for each of its.
    fn estimate(&self, facts: &Facts<'_>) -> u64 {
        let longest = facts.longest.max(self.length);
        let rounds = |loops: usize| match loops {
            0 => 1,
            _ => longest.saturating_pow(loops as u32 - 1).saturating_mul(facts.values.max(longest)),
        };
        self.steps
            .iter()
            .enumerate()
            .fold(0u64, |sum, (loops, steps)| sum.saturating_add(steps.saturating_mul(rounds(loops))))
    }
}

/// Reading and comparing a pattern takes about as long as this many steps.
const PATTERN_STEPS: u64 = 200;

/// An expression on the scales.
struct Weighed {
    variables: Vec<String>,
    steps: Vec<u64>,
}

impl Weighed {
    fn step(&mut self, loops: usize, steps: u64) {
        if self.steps.len() <= loops {
            self.steps.resize(loops + 1, 0);
        }
        self.steps[loops] += steps;
    }

    /// # Errors
    /// What it must not do.
    fn weigh(&mut self, root: &IdedExpr) -> Result<(), String> {
        // What is open: a part, within how many loops and how many parts it stands.
        let mut open: Vec<(&IdedExpr, usize, usize)> = vec![(root, 0, 0)];
        while let Some((part, loops, depth)) = open.pop() {
            if depth > MAX_EXPRESSION_DEPTH {
                return Err(format!("more than {MAX_EXPRESSION_DEPTH} parts within each other"));
            }
            self.step(loops, 1);
            let mut push = |part| open.push((part, loops, depth + 1));
            match &part.expr {
                Expr::Unspecified => return Err("it is no expression".to_owned()),
                Expr::Literal(_) => {}
                Expr::Ident(name) => {
                    if !name.starts_with('@') && !self.variables.contains(name) {
                        self.variables.push(name.clone());
                    }
                }
                Expr::Select(select) => push(&select.operand),
                Expr::Call(call) => {
                    let is_operator = call.func_name.starts_with(['_', '@', '!', '-']);
                    if !is_operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                        return Err(format!("unknown function {}", clean_line(&call.func_name, 60)));
                    }
                    let compares = [operators::EQUALS, operators::NOT_EQUALS, operators::IN];
                    if compares.contains(&call.func_name.as_str()) && !call.args.iter().any(is_constant) {
                        // Two lists may be compared, element by element.
                        self.step(loops + 1, 1);
                    }
                    match call.func_name.as_str() {
                        "matches" => self.step(loops, PATTERN_STEPS),
                        operators::ADD if loops > 0 => {
                            return Err("nothing can be added within a loop".to_owned());
                        }
                        _ => {}
                    }
                    call.target.iter().for_each(|target| push(target));
                    call.args.iter().for_each(push);
                }
                Expr::List(list) => {
                    if loops > 0 && !list.elements.iter().all(is_constant) {
                        return Err("within a loop a list can only be written of constants".to_owned());
                    }
                    list.elements.iter().for_each(push);
                }
                Expr::Map(map) if loops == 0 => {
                    for entry in &map.entries {
                        if let EntryExpr::MapEntry(entry) = &entry.expr {
                            push(&entry.key);
                            push(&entry.value);
                        }
                    }
                }
                Expr::Map(_) => return Err("within a loop no map can be written".to_owned()),
                Expr::Struct(_) => return Err("there are no messages to be made".to_owned()),
                Expr::Comprehension(each) => {
                    if loops >= MAX_EXPRESSION_LOOPS {
                        return Err(format!("more than {MAX_EXPRESSION_LOOPS} loops within each other"));
                    }
                    push(&each.iter_range);
                    push(&each.accu_init);
                    let within = (loops + 1, depth + 1);
                    self.step(within.0, 4);
                    for part in folded(each.accu_var.as_str(), &each.loop_step) {
                        open.push((part, within.0, within.1));
                    }
                    open.push((&each.result, loops, within.1));
                }
            }
        }
        // Names that loops bind are no fields of the object; they are not found there and do no harm.
        Ok(())
    }
}

/// The parts of a loop's step that people wrote. `map` and `filter` are read as additions to a list of the loop's own:
/// of such an addition only what is added counts.
fn folded<'a>(accumulator: &str, step: &'a IdedExpr) -> Vec<&'a IdedExpr> {
    let Expr::Call(call) = &step.expr else { return vec![step] };
    let is_accumulator = |part: &IdedExpr| matches!(&part.expr, Expr::Ident(name) if name == accumulator);
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [first, second]) if accumulator.starts_with('@') && is_accumulator(first) => {
            match &second.expr {
                Expr::List(list) => list.elements.iter().collect(),
                _ => vec![second],
            }
        }
        (operators::CONDITIONAL, [condition, then, or_else]) => {
            let mut parts = vec![condition];
            parts.extend(folded(accumulator, then));
            parts.extend(folded(accumulator, or_else));
            parts
        }
        _ => vec![step],
    }
}

fn is_constant(part: &IdedExpr) -> bool {
    match &part.expr {
        Expr::Literal(LiteralValue::Bytes(_)) => false,
        Expr::Literal(_) => true,
        Expr::List(list) => list.elements.iter().all(is_constant),
        _ => false,
    }
}

/// A value for CEL: whole numbers are `int`, as they are in cel-go; who wrote which field is left out.
fn converted(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => cel::Value::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => cel::Value::Int(number),
            (None, Some(number)) => cel::Value::UInt(number),
            (None, None) => cel::Value::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(converted).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "managedFields");
            let fields: HashMap<Key, cel::Value> =
                fields.map(|(name, value)| (Key::String(Arc::new(name.clone())), converted(value))).collect();
            cel::Value::Map(Map { map: Arc::new(fields) })
        }
    }
}

fn first_line(text: &str) -> String {
    clean_line(text.lines().next().unwrap_or_default(), 120)
}
