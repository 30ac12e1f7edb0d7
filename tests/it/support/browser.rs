//! A real browser: headless Chromium through its driver, as the WebDriver recommendation says
//! (<https://www.w3.org/TR/webdriver2/>). A dozen calls in JSON; a client crate would bring forty others to compile.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Service;

/// Longest wait for something to appear on a page, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How a window looks.
#[derive(Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    /// `es` or `en`, as the browser asks for it.
    pub language: &'static str,
}

pub const ENGLISH: Look = Look { width: 1_400, height: 900, dark: false, language: "en" };
pub const SPANISH: Look = Look { language: "es", ..ENGLISH };
pub const DARK: Look = Look { dark: true, ..ENGLISH };
pub const PHONE: Look = Look { width: 500, height: 900, ..SPANISH };

/// The driver's process, and what it can open.
pub struct Driver {
    child: Child,
    agent: ureq::Agent,
    address: String,
}

/// One window with its own cookies.
pub struct Window<'a> {
    driver: &'a Driver,
    session: String,
    origin: String,
}

impl Driver {
    /// None, said aloud, where there is no driver.
    pub fn start() -> Option<Self> {
        let started = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = started else {
            println!("skipped: NO BROWSER: chromedriver is not installed; scripts/browser installs it");
            return None;
        };
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let port = said.by_ref().lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.rsplit_once("successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        // It ends when nobody reads what it says.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let port = port.expect("the driver says its port");
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT * 2))
            .proxy(None)
            .build();
        Some(Self { child, agent: config.into(), address: format!("http://127.0.0.1:{port}") })
    }

    /// A new window that looks at a service.
    pub fn window(&self, service: &Service, look: Look) -> Window<'_> {
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--window-size={},{}", look.width, look.height),
        ];
        if look.dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments, "prefs": { "intl.accept_languages": look.language } },
            "goog:loggingPrefs": { "browser": "ALL" },
            "unhandledPromptBehavior": "ignore",
        } } });
        let opened = self.call("POST", "/session", Some(&capabilities));
        let session = opened["sessionId"].as_str().unwrap_or_else(|| panic!("no window: {opened}")).to_owned();
        Window { driver: self, session, origin: format!("http://{}", service.address()) }
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Box<dyn std::error::Error>> {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.address));
        let request = request.header("content-type", "application/json");
        let answer = match body {
            Some(body) => self.agent.run(request.body(body.to_string())?),
            None => self.agent.run(request.body(())?),
        };
        let text = answer?.body_mut().with_config().limit(64 << 20).read_to_string()?;
        let answer: Value = serde_json::from_str(&text)?;
        Ok(answer["value"].clone())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Windows are closed by then; a driver that is gone already is no failure.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Window<'_> {
    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let body = (method == "POST").then_some(&body);
        self.driver.call(method, &format!("/session/{}{path}", self.session), body)
    }

    /// Opens a path of the service, or a whole address.
    pub fn open(&self, path: &str) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.origin) };
        let failed = self.call("POST", "/url", json!({ "url": url }));
        assert!(failed.is_null(), "{url}: {failed}");
    }

    /// Path of the page.
    pub fn path(&self) -> String {
        let url = self.call("GET", "/url", Value::Null);
        let url = url.as_str().unwrap_or_default();
        url.strip_prefix(&self.origin).unwrap_or(url).to_owned()
    }

    /// Runs a function body in the page.
    pub fn script(&self, script: &str) -> Value {
        let value = self.call("POST", "/execute/sync", json!({ "script": script, "args": [] }));
        assert!(value.get("error").is_none(), "{script}: {value}");
        value
    }

    /// Runs a function body in the page that calls its last argument when it is done.
    pub fn script_until_done(&self, script: &str) -> Value {
        let value = self.call("POST", "/execute/async", json!({ "script": script, "args": [] }));
        assert!(value.get("error").is_none(), "{value}");
        value
    }

    /// Waits until a function body gives something true.
    pub fn until(&self, what: &str, script: &str) {
        let start = Instant::now();
        while self.script(script) != true {
            assert!(start.elapsed() < LIMIT, "{what} does not happen on {}: {}", self.path(), self.text("body"));
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Waits until a text stands in what a selector finds.
    pub fn until_says(&self, selector: &str, text: &str) {
        let script = format!(
            "return [...document.querySelectorAll({})].some((e) => e.innerText.includes({}))",
            json!(selector),
            json!(text)
        );
        self.until(&format!("{text:?} in {selector}"), &script);
    }

    /// Waits until something is there and visible, and gives it.
    fn element(&self, selector: &str) -> String {
        let script =
            format!("const e = document.querySelector({}); return !!e && e.checkVisibility()", json!(selector));
        self.until(selector, &script);
        let found = self.call("POST", "/element", json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("{selector}: {found}")).to_owned()
    }

    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        let failed = self.call("POST", &format!("/element/{element}/click"), json!({}));
        assert!(failed.is_null(), "{selector}: {failed}");
    }

    /// Types into a field, in place of what stands there.
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.call("POST", &format!("/element/{element}/clear"), json!({}));
        let failed = self.call("POST", &format!("/element/{element}/value"), json!({ "text": text }));
        assert!(failed.is_null(), "{selector}: {failed}");
    }

    /// Presses keys one after the other, wherever the focus is.
    pub fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] });
        let failed = self.call("POST", "/actions", actions);
        assert!(failed.is_null(), "{keys}: {failed}");
    }

    /// What a reader sees of an element.
    pub fn text(&self, selector: &str) -> String {
        let text = self.script(&format!("return document.querySelector({})?.innerText ?? ''", json!(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Puts a signed-in agent's cookie into the window.
    pub fn sign_in_as(&self, desk: &super::Desk) {
        self.open("/desk/sign-in");
        let (name, value) = desk.cookie().split_once('=').expect("a cookie");
        let cookie = json!({ "cookie": { "name": name, "value": value, "path": "/desk" } });
        let failed = self.call("POST", "/cookie", cookie);
        assert!(failed.is_null(), "{failed}");
    }

    /// The picture of the window, as a PNG file in base64.
    pub fn picture(&self) -> String {
        self.call("GET", "/screenshot", Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// What the page's console has complained of since the last time.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", json!({ "type": "browser" }));
        let lines = log.as_array().into_iter().flatten();
        let serious = lines.filter(|line| line["level"] == "SEVERE").map(|line| line["message"].to_string());
        serious.collect()
    }

    /// Goes into the frame that a script finds.
    pub fn enter_frame(&self, script: &str) {
        let frame = self.script(script);
        let failed = self.call("POST", "/frame", json!({ "id": frame }));
        assert!(failed.is_null(), "{failed}");
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // Also after a failed test, else its browser would stay.
        drop(self.driver.try_call("DELETE", &format!("/session/{}", self.session), None));
    }
}
