//! Draws the page of `lion report` in a browser.
//!
//! If `LION_EXPECT_CHROMIUM=1`, a missing browser is a failure.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::tempdir;

/// Returns the browser's DOM of the drawn page (stdout) and its log (stderr).
fn render(page: &Path, profile: &Path, dark: bool, screenshot: &Path) -> Option<Output> {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|done| done.status.success()));
    let Some(browser) = browser else {
        assert!(
            std::env::var_os("LION_EXPECT_CHROMIUM").is_none(),
            "chromium is expected here and is missing"
        );
        println!("skipped: there is no chromium to draw the report with");
        return None;
    };
    let mut command = Command::new(browser);
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--window-size=1300,2400",
    ]);
    command.args(["--enable-logging=stderr", "--v=0", "--dump-dom", "--hide-scrollbars"]);
    // The page must be self-contained.
    command.arg("--host-resolver-rules=MAP * ~NOTFOUND");
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("--screenshot={}", screenshot.display()));
    command.arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }));
    command.arg(format!("file://{}", page.display()));
    Some(command.output().expect("it runs"))
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// Returns the number of points that the figures of a page promise.
fn promised(page: &str, figure: &str) -> usize {
    let begin = format!("<figure class=\"{figure}\" data-points=\"");
    let numbers = page.split(&begin).skip(1).map(|rest| rest.split('"').next().expect("a number"));
    numbers.map(|number| number.parse::<usize>().expect("a number")).sum()
}

#[test]
fn a_browser_draws_every_point() {
    let folder = tempdir().expect("a folder");
    let page = folder.path().join("report.html");
    let lion = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
        command.env("HOME", folder.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
        let done = command.args(arguments).output().expect("it runs");
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    };
    lion(&["tune", "--time-limit", "3", "--ops", "step", "--dtypes", "f32"]);
    lion(&["report", "--output", &page.to_string_lossy()]);
    let text = fs::read_to_string(&page).expect("a page");
    for outside in ["http://", "https://", "<script", "url(", "@import"] {
        assert!(!text.contains(outside), "the page has {outside}");
    }
    // Three lines of throughput and two relative to the bandwidth bound, over eight sizes. A busy machine may miss the
    // large sizes.
    assert!((5..=5 * 8).contains(&promised(&text, "chart")), "{text}");
    assert!(lion_autotune::Machine::detect().cores == 1 || promised(&text, "heat") > 0, "{text}");

    let mut pictures = Vec::new();
    for dark in [false, true] {
        let picture = folder.path().join(format!("dark-{dark}.png"));
        let Some(drawn) = render(&page, &folder.path().join("browser"), dark, &picture) else { return };
        let (dom, log) = (String::from_utf8_lossy(&drawn.stdout), String::from_utf8_lossy(&drawn.stderr));
        assert!(drawn.status.success(), "{log}");
        assert!(!log.contains("CONSOLE"), "{log}");
        assert!(dom.contains("</html>"), "{log}");
        assert_eq!(count(&dom, "<circle class=\"point"), promised(&text, "chart"));
        assert_eq!(count(&dom, "<rect class=\"cell"), promised(&text, "heat"));
        pictures.push(fs::read(&picture).expect("a picture"));
    }
    assert!(pictures.iter().all(|picture| picture.len() > 20_000));
    assert_ne!(pictures[0], pictures[1], "light and dark look alike");
}
