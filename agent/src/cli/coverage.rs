//! `postern coverage`: what has become of every connect to a target.

use super::{
    Failure, Global,
    client::Client,
    output::{Colour, Out, clean},
};
use crate::{
    control::{CoverageLine, CoverageReport, Reply, Request},
    model::Coverage,
};

/// Columns beside target and user. Those after the first are shown only if something is in them.
type Column = (&'static str, fn(&Coverage) -> u64);
const COLUMNS: [Column; 11] = [
    ("REDIRECTED", |counts| counts.redirected),
    ("PROXIED", |counts| counts.proxied),
    ("DENIED", |counts| counts.denied),
    ("OPEN", |counts| counts.open),
    ("ABANDONED", |counts| counts.abandoned),
    ("LOST AT RESTART", |counts| counts.lost_at_restart),
    ("NOT HANDED OVER", |counts| counts.not_handed_over),
    ("NO LISTENER", |counts| counts.refused_no_listener),
    ("NOT RECORDED", |counts| counts.refused_not_recorded),
    ("NOT TCP", |counts| counts.refused_udp),
    ("DIRECT", |counts| counts.observed_direct),
];

/// Asks and prints.
///
/// # Errors
/// Something is unexplained, or the agent is not there.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let report = Client::connect(global)?.one(&Request::Coverage {}, |reply| match reply {
        Reply::Coverage(report) => Some(report),
        _ => None,
    })?;
    match global.json {
        true => out.json(&report)?,
        false => print(&report, out)?,
    }
    out.flush()?;
    match report.unexplained {
        0 => Ok(()),
        unexplained => Err(Failure::wrong(format!("{unexplained} redirected connects are not accounted for"))
            .with_remedy("The log has a record \"unexplained\" with what the kernel noted of them.")),
    }
}

fn print(report: &CoverageReport, out: &mut Out) -> Result<(), Failure> {
    let shown: Vec<&Column> = COLUMNS
        .iter()
        .enumerate()
        .filter(|(index, (_, count))| *index < 3 || report.rows.iter().any(|row| count(&row.counts) > 0))
        .map(|(_, column)| column)
        .collect();
    let mut header = vec!["TARGET", "USER"];
    header.extend(shown.iter().map(|(name, _)| name));
    header.push("UNEXPLAINED");
    let rows: Vec<Vec<String>> = report.rows.iter().map(|row| cells(row, &shown)).collect();
    out.table(&header, &rows)?;
    for flow in &report.waiting {
        let text = format!("no record: pid {}, uid {}, to {}", flow.tgid, flow.uid, flow.destination);
        out.line(out.paint(Colour::Bad, &text))?;
    }
    out.line("")?;
    let colour = if report.unexplained == 0 { Colour::Good } else { Colour::Bad };
    let unexplained = out.paint(colour, &format!("{} unexplained", report.unexplained));
    Ok(out.line(format!("{unexplained}, since epoch {}", clean(&report.epoch)))?)
}

fn cells(row: &CoverageLine, shown: &[&Column]) -> Vec<String> {
    let user = match (&row.user, row.uid) {
        (Some(user), _) => user.clone(),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => String::new(),
    };
    let mut cells = vec![row.target.clone(), user];
    cells.extend(shown.iter().map(|(_, count)| count(&row.counts).to_string()));
    cells.push(row.unexplained.to_string());
    cells
}
