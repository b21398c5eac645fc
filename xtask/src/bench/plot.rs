//! A plot per group: a bar for each contender, as long as its median, with its spread across.
//!
//! Cases with one unit share a scale, so that bars may be compared down the whole plot. Of two
//! placements of the cores, near is drawn; the tables have both.

use std::path::Path;

use plotters::prelude::*;

use super::report::GroupReport;
use super::sample::{Class, Unit};
use super::table::{Case, Contender};

const WIDTH: u32 = 960;
const HEAD: i32 = 40;
const TITLE: i32 = 26;
const ROW: i32 = 20;
const GAP: i32 = 14;
/// Where bars begin, and how long the longest is.
const LEFT: i32 = 370;
const LONGEST: i32 = 480;
/// More contenders than this make a plot that nobody reads: it is left to the tables.
const MOST: usize = 400;

const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(158, 158, 158);
const FLOOR: RGBColor = RGBColor(217, 217, 217);
const INK: RGBColor = RGBColor(40, 40, 40);

/// Draws a group; false when there is nothing to draw.
pub(crate) fn draw(group: &GroupReport, path: &Path) -> anyhow::Result<bool> {
    let cases: Vec<(&Case, Unit, Vec<&Contender>)> = group
        .cases
        .iter()
        .filter_map(|case| Some((case, case.unit?, bars(case))))
        .filter(|(_, _, bars)| !bars.is_empty())
        .collect();
    let rows: usize = cases.iter().map(|(_, _, bars)| bars.len()).sum();
    if rows == 0 || rows > MOST {
        return Ok(false);
    }
    let height = HEAD + cases.len() as i32 * (TITLE + GAP) + rows as i32 * ROW;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    let failed = |error| anyhow::anyhow!("cannot draw {}: {error}", path.display());
    area.fill(&WHITE).map_err(failed)?;
    let text = |words: String, x: i32, y: i32, size: i32| {
        let style = ("sans-serif", size).into_font().color(&INK);
        area.draw(&Text::new(words, (x, y), style)).map_err(failed)
    };
    let placed = cases
        .iter()
        .flat_map(|(_, _, bars)| bars)
        .any(|bar| bar.class == Class::Near);
    let near = if placed {
        ", cores near each other"
    } else {
        ""
    };
    let head = format!(
        "{}: medians, with the middle half of the samples{near}",
        group.name
    );
    text(head, 12, 10, 20)?;
    let mut y = HEAD;
    for (case, unit, bars) in &cases {
        let same = cases.iter().filter(|(_, other, _)| other == unit);
        let ends = same.flat_map(|(_, _, bars)| bars.iter().filter_map(|bar| end(bar)));
        let scale = f64::from(LONGEST) / ends.fold(f64::MIN_POSITIVE, f64::max);
        let at = |value: f64| LEFT + (value * scale).round() as i32;
        let better = if unit.is_rate() { "more" } else { "less" };
        text(
            format!("{}  [{}, {better} is better]", case.name, unit.name()),
            12,
            y,
            17,
        )?;
        y += TITLE;
        for bar in bars {
            let (Some(median), Some(spread)) = (bar.median, bar.spread) else {
                continue;
            };
            let (top, bottom) = (y + 2, y + ROW - 4);
            text(bar.name.clone(), 24, y + 2, 15)?;
            let body = [(LEFT, top), (at(median), bottom)];
            area.draw(&Rectangle::new(body, color(bar).filled()))
                .map_err(failed)?;
            let middle = (top + bottom) / 2;
            let line = vec![(at(spread.p25), middle), (at(spread.p75), middle)];
            area.draw(&PathElement::new(line, INK.stroke_width(2)))
                .map_err(failed)?;
            let x = at(median.max(spread.p75)) + 6;
            text(unit.shown(median), x, y + 2, 15)?;
            y += ROW;
        }
        y += GAP;
    }
    area.present().map_err(failed)?;
    Ok(true)
}

/// The contenders that have a bar: near where there is a near.
fn bars(case: &Case) -> Vec<&Contender> {
    let measured = || case.contenders.iter().filter(|c| c.median.is_some());
    let near = measured().any(|c| c.class == Class::Near);
    measured()
        .filter(|c| !near || c.class != Class::Far)
        .collect()
}

fn end(bar: &Contender) -> Option<f64> {
    Some(bar.median?.max(bar.spread?.p75))
}

fn color(bar: &Contender) -> RGBColor {
    if bar.name.starts_with("vring") {
        OURS
    } else if bar.name.starts_with("floor") {
        FLOOR
    } else {
        THEIRS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::group;

    #[test]
    fn every_contender_with_a_figure_has_a_bar() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        assert!(draw(&group(), &path).unwrap());
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for word in [
            "vring split burst",
            "virtio-drivers 0.13",
            "14.2",
            "less is better",
        ] {
            assert!(svg.contains(word), "{word}");
        }
        assert!(!svg.contains("Linux ring.c"), "it has no figure");
        assert!(!svg.contains("50.0"), "far is left to the tables");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let empty = GroupReport {
            cases: Vec::new(),
            ..group()
        };
        assert!(!draw(&empty, &dir.path().join("plot.svg")).unwrap());
    }
}
