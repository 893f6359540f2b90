//! Files that are ten times as long take about ten times as long: to parse, to lower, and to compute keys for. How long that is, says
//! the example `speed`.

use std::collections::BTreeMap;
use std::time::Duration;

use frontend::{Lowered, Options, lower};
use graph::{Environment, Op};

use crate::clock::used;

mod clock;
mod shapes;

use shapes::{SHAPES, keys};

/// Lines of the shorter file.
const LINES: usize = 200;

/// How many times as long the longer one is, and how often the shorter one is done meanwhile.
const TIMES: usize = 10;

/// What costs the square takes ten times as long per line; with memory that is less near, twice.
const MOST: f64 = 3.0;

/// Less cannot be measured.
const LEAST: Duration = Duration::from_millis(20);

#[test]
fn ten_times_as_long_takes_ten_times_as_long() {
    for (name, generate) in SHAPES {
        let (short, long) = (generate(LINES), generate(LINES * TIMES));
        // Somebody else may be using the memory; not each time.
        let is_linear = || took(&long, 1) < took(&short, TIMES).max(LEAST).mul_f64(MOST);
        assert!((0..3).any(|_| is_linear()), "{name}");
    }
}

/// Thousands of steps, alone or in stages on top of each other, have no more variables in memory than were set, and some for each change
/// to a list of them.
#[test]
fn steps_share_what_they_have_of_an_environment() {
    for (name, generate) in SHAPES {
        let parsed = parser::parse(&generate(LINES * TIMES));
        let plan = lower(&parsed, &Options::default(), &BTreeMap::new());
        let Ok(Lowered::Plan(plan)) = plan else { panic!("{name} can be built: {plan:?}") };
        let environments = plan.definition.iter().filter_map(|(_, vertex)| match &vertex.op {
            Op::Exec(exec) => Some(&exec.env),
            _ => None,
        });
        let mut before = &Environment::default();
        let (mut steps, mut own) = (0, 0);
        for environment in environments {
            steps += 1;
            own += environment.unshared(before).count();
            before = environment;
        }
        // An argument stands behind the variables, and so moves with each.
        let most = LINES * TIMES + 2 * steps;
        assert!(own <= most, "{name}: {steps} steps, {own} variables");
    }
}

/// What all of it takes, so many times.
fn took(text: &str, times: usize) -> Duration {
    let before = used();
    for _ in 0..times {
        let parsed = parser::parse(text);
        let plan = lower(&parsed, &Options::default(), &BTreeMap::new());
        let Ok(Lowered::Plan(plan)) = plan else { panic!("it can be built: {plan:?}") };
        std::hint::black_box(keys(&plan.definition));
    }
    used().saturating_sub(before)
}
