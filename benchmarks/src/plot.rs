//! Plots as SVG.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

/// The cost of one operation at several sizes.
pub(crate) struct Line {
    /// Server and operation.
    pub(crate) name: String,
    /// Size, and CPU time in milliseconds.
    pub(crate) points: Vec<(usize, f64)>,
}

/// Draws lines with a logarithmic scale on either axis: what grows like its size climbs one
/// decade with each decade.
pub(crate) fn growth(file: &Path, axis: &str, lines: &[Line]) -> Result<(), String> {
    let root = SVGBackend::new(file, (900, 520)).into_drawing_area();
    draw(&root, axis, lines).map_err(|error| error.to_string())
}

fn draw(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    axis: &str,
    lines: &[Line],
) -> Result<(), Box<dyn Error>> {
    root.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let sizes = points().map(|(size, _)| size as f64);
    let (least, most) = sizes.fold((f64::MAX, 1.0_f64), |(a, b), x| (a.min(x), b.max(x)));
    let costs = points().map(|(_, ms)| ms.max(0.001));
    let (low, high) = costs.fold((f64::MAX, 0.002_f64), |(a, b), y| (a.min(y), b.max(y)));
    let mut chart = ChartBuilder::on(root)
        .margin(20)
        .x_label_area_size(45)
        .y_label_area_size(60)
        .build_cartesian_2d(
        (least..most * 1.05).log_scale(),
        (low * 0.8..high * 1.2).log_scale(),
    )?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("CPU ms of the server")
        .x_label_formatter(&|size| format!("{size:.0}"))
        .y_label_formatter(&|ms| format!("{ms:.2}"))
        .draw()?;
    for (number, line) in lines.iter().enumerate() {
        let style = Palette99::pick(number).stroke_width(2);
        let points = line.points.iter().map(|(size, ms)| (*size as f64, ms.max(0.001)));
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.4))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    root.present()?;
    Ok(())
}
