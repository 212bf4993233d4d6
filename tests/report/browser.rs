//! A page in a real browser, headless.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the browser made of a page.
#[derive(Debug)]
pub struct Seen {
    /// Pixels that the document wants across.
    pub scroll_width: u32,
    /// The element that reaches furthest to the right.
    pub widest: String,
    /// Whether a script that a model smuggled in has run.
    pub script_ran: bool,
}

/// The browser: `CHROMIUM`, or the usual names.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|n| folder.join(n))).find(|p| p.is_file())
}

/// Lays the page out in a frame of this width, in a page of our own whose script measures it. A frame, because a window may have a least width.
pub fn measure(browser: &Path, html: &str, width: u32) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    let attribute = html.replace('&', "&amp;").replace('"', "&quot;");
    let probe = format!(
        "<!DOCTYPE html><meta charset=utf-8><iframe id=f style='border:0;width:{width}px;height:900px' srcdoc=\"{attribute}\"></iframe><pre id=r></pre><script>
        document.getElementById('f').onload = e => {{
            const d = e.target.contentDocument;
            let right = 0, widest = '';
            for (const n of d.querySelectorAll('body *')) {{
                const r = n.getBoundingClientRect().right;
                if (r > right) {{ right = r; widest = n.tagName + '.' + (n.getAttribute('class') || '') + ' ' + Math.round(r); }}
            }}
            document.getElementById('r').textContent = ['probe', d.documentElement.scrollWidth, widest, d.title === 'run'].join('|');
        }};
        </script>"
    );
    let file = folder.path().join("probe.html");
    std::fs::write(&file, probe).unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--window-size=1600,1000"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let line = dom.split("<pre id=\"r\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or_default();
    let fields: Vec<&str> = line.split('|').collect();
    assert_eq!(
        fields.first(),
        Some(&"probe"),
        "the browser measured nothing: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Seen { scroll_width: fields[1].parse().unwrap(), widest: fields[2].to_owned(), script_ran: fields[3] == "true" }
}
