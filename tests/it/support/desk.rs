//! An agent at the desk, as a browser without scripts: a cookie and forms.

use super::{Client, Reply, Service, encode};

/// Password of everybody in tests.
pub const PASSWORD: &str = "a long password";

/// A signed-in agent.
pub struct Desk {
    client: Client,
    cookie: String,
    /// Stands in every form.
    pub csrf: String,
}

impl Desk {
    /// Makes the first account of a fresh service, an administrator, and signs it in.
    pub fn set_up(service: &Service, name: &str) -> Self {
        Self::set_up_with(service.client(), &setup_token(service), name)
    }

    /// The same for the desk that a client speaks to, with the token of its set-up link.
    pub fn set_up_with(client: Client, token: &str, name: &str) -> Self {
        let form = [("token", token), ("name", name), ("login", &name.to_lowercase()), ("password", PASSWORD)];
        let made = post_form(&client, "/desk/setup", "", &form);
        assert_eq!((made.status, made.header("location")), (303, "/desk"), "{}", made.body);
        Self::with(client, &made)
    }

    /// Signs somebody in who has an account.
    pub fn sign_in(service: &Service, name: &str) -> Self {
        Self::sign_in_with(service, name, PASSWORD).unwrap_or_else(|refused| panic!("{}", refused.body))
    }

    /// The same with any password; what the page said where it was refused.
    pub fn sign_in_with(service: &Service, name: &str, password: &str) -> Result<Self, Box<Reply>> {
        let client = service.client();
        let login = name.to_lowercase();
        let reply = post_form(&client, "/desk/sign-in", "", &[("login", login.as_str()), ("password", password)]);
        if reply.status != 303 {
            return Err(Box::new(reply));
        }
        Ok(Self::with(client, &reply))
    }

    /// Adds a colleague and signs them in.
    pub fn colleague(&self, service: &Service, name: &str, role: &str) -> Self {
        let login = name.to_lowercase();
        let form = [("name", name), ("login", login.as_str()), ("password", PASSWORD), ("role", role)];
        assert_eq!(self.form("/desk/people", &form).status, 303);
        Self::sign_in(service, name)
    }

    fn with(client: Client, signed_in: &Reply) -> Self {
        let cookie = signed_in.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
        let mut desk = Self { client, cookie, csrf: String::new() };
        let page = desk.get("/desk");
        assert_eq!(page.status, 200, "{}", page.body);
        let (_, rest) = page.body.split_once("name=\"csrf\" value=\"").expect("a form with a token");
        desk.csrf = rest.split('"').next().unwrap_or_default().to_owned();
        desk
    }

    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    pub fn get(&self, path: &str) -> Reply {
        self.client.send("GET", path, &[("cookie", &self.cookie)], None)
    }

    /// Sends a form with the session's token.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let fields: Vec<_> = fields.iter().copied().chain([("csrf", self.csrf.as_str())]).collect();
        post_form(&self.client, path, &self.cookie, &fields)
    }

    /// Sends a form without it.
    pub fn form_without_token(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        post_form(&self.client, path, &self.cookie, fields)
    }
}

/// The token in the set-up link that the service printed.
pub fn setup_token(service: &Service) -> String {
    said_after(service, "the team works at", "/desk/setup?token=")
}

/// The token in the set-up link of another team.
pub fn setup_token_of(service: &Service, team: &str) -> String {
    said_after(service, &format!("{team} works at"), "/desk/setup?token=")
}

/// The word after `mark` in the line of the service's output that has `name` in it.
fn said_after(service: &Service, name: &str, mark: &str) -> String {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let said = service.said();
        let line = said.lines().find_map(|line| line.split_once(name)?.1.split_once(mark));
        if let Some((_, rest)) = line {
            return rest.split_whitespace().next().unwrap_or_default().to_owned();
        }
        assert!(std::time::Instant::now() < until, "no set-up link: {said}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Sends a form as a browser does.
pub fn post_form(client: &Client, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Reply {
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("cookie", cookie)];
    client.send("POST", path, &headers, Some(pairs.join("&").as_bytes()))
}

/// The ticket behind a customer's link.
pub fn ticket_of(link: &str) -> String {
    let id = &link["/chat/".len()..][..32];
    format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
}
