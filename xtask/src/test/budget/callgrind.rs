//! Reading callgrind's output, names and positions written out.

/// Instructions of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// All that were collected.
    pub(super) total: u64,
    /// Those of calls to the function that does not count, all that it calls included.
    pub(super) apart: u64,
}

/// What was collected, and how much of it below the function whose path ends with `apart`.
///
/// A call is three lines: `cfn=` names the callee, `calls=` says how often, and the line behind it
/// ends with the inclusive cost.
pub(super) fn cost(profile: &str, apart: &str) -> Option<Cost> {
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))?;
    let mut cost = Cost {
        total: total.trim().parse().ok()?,
        apart: 0,
    };
    let mut callee = "";
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if line.starts_with("calls=") {
            let inclusive = lines.next()?.split_whitespace().nth(1)?;
            if callee.ends_with(apart) {
                cost.apart += inclusive.parse::<u64>().ok()?;
            }
        }
    }
    Some(cost)
}

/// How many rounds the program says that it made: `2048 rounds a call, 4 calls of each`.
pub(super) fn rounds(printed: &str) -> Option<u64> {
    printed.lines().find_map(|line| {
        let (rounds, rest) = line.split_once(" rounds a call, ")?;
        let calls = rest.split_once(" calls of each")?.0;
        let product = rounds.parse::<u64>().ok()? * calls.parse::<u64>().ok()?;
        (product > 0).then_some(product)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "
events: Ir
fn=budget::round
169 64
cfi=/src/main.rs
cfn=budget::Device::run
calls=256 140
175 83200
cfn=alloc::drop
calls=1 2
3 50
fn=budget::Device::run
140 256
totals: 886635
";

    #[test]
    fn the_device_is_told_apart() {
        let cost = cost(PROFILE, "Device::run").unwrap();
        assert_eq!(
            cost,
            Cost {
                total: 886_635,
                apart: 83_200
            }
        );
        assert_eq!(super::cost("fn=x", "Device::run"), None);
    }

    #[test]
    fn the_program_says_how_many_rounds_it_made() {
        let printed = "==1== Callgrind\n2048 rounds a call, 4 calls of each\n";
        assert_eq!(rounds(printed), Some(8192));
        assert_eq!(rounds("==1== Callgrind"), None);
    }
}
