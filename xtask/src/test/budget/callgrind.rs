//! Reading callgrind's output, names and positions written out: for the budget and for
//! `cargo xtask bench`.

use std::path::Path;

/// Instructions of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    /// All that were collected.
    total: u64,
    /// Those of calls to the function that does not count, all that it calls included.
    apart: u64,
}

/// What was collected, and how much of it below the function whose path ends with `apart`.
///
/// A call is three lines: `cfn=` names the callee, `calls=` says how often, and the line behind it
/// ends with the inclusive cost.
fn cost(profile: &str, apart: &str) -> Option<Cost> {
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
fn rounds(printed: &str) -> Option<u64> {
    printed.lines().find_map(|line| {
        let (rounds, rest) = line.split_once(" rounds a call, ")?;
        let calls = rest.split_once(" calls of each")?.0;
        let product = rounds.parse::<u64>().ok()? * calls.parse::<u64>().ok()?;
        (product > 0).then_some(product)
    })
}

/// What valgrind is told, to count what goes on in functions whose path ends so.
pub(crate) fn words(profile: &Path, function: &str) -> [String; 5] {
    [
        "--tool=callgrind".into(),
        "--compress-strings=no".into(),
        "--compress-pos=no".into(),
        format!("--callgrind-out-file={}", profile.display()),
        format!("--toggle-collect=*{function}"),
    ]
}

/// Instructions of a round without what is apart, by what the program printed and by its profile;
/// or why they cannot be told.
pub(crate) fn per_round(printed: &str, profile: &str, apart: &str) -> Result<f64, String> {
    let rounds = rounds(printed).ok_or("the program does not say how many rounds it made")?;
    let cost = cost(profile, apart).ok_or("callgrind's profile cannot be read")?;
    if cost.total == 0 || cost.apart == 0 {
        return Err(format!(
            "{} instructions counted, {} of them the device's: a function has another name or \
             was inlined",
            cost.total, cost.apart
        ));
    }
    Ok((cost.total - cost.apart) as f64 / rounds as f64)
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
    fn a_round_is_counted_without_the_device_or_not_at_all() {
        let printed = "2048 rounds a call, 4 calls of each";
        let counted = per_round(printed, PROFILE, "Device::run").unwrap();
        assert_eq!(counted, f64::from(886_635 - 83_200) / 8192.0);
        assert!(per_round(printed, PROFILE, "Device::walk").is_err());
        assert!(per_round("", PROFILE, "Device::run").is_err());
        assert!(per_round(printed, "", "Device::run").is_err());
    }

    #[test]
    fn the_program_says_how_many_rounds_it_made() {
        let printed = "==1== Callgrind\n2048 rounds a call, 4 calls of each\n";
        assert_eq!(rounds(printed), Some(8192));
        assert_eq!(rounds("==1== Callgrind"), None);
    }
}
