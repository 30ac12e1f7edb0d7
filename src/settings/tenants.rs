//! Several teams in one installation: each has hosts, a database, an index, people and keys of its own, and shares the models
//! and the address that the service listens on.

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};

use super::{Settings, SettingsError};

/// Sections that a team may set otherwise.
const OWN: [&str; 7] = ["policy", "support", "chat", "draft", "intake", "retrieval", "retention"];
/// Longest name: it becomes part of a schema's name, which has 60 characters at most.
const LONGEST_NAME: usize = 24;

/// A team beside the one of the installation itself.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub name: String,
    /// Hosts, lower-case and without a port, whose requests are this team's.
    pub hosts: Vec<String>,
    settings: Settings,
}

impl Settings {
    /// The other teams of this installation, by name, each with settings of its own.
    pub fn tenants(&self) -> impl Iterator<Item = (&Tenant, Settings)> {
        self.tenants.iter().map(|tenant| (tenant, self.of(tenant)))
    }

    /// The settings of a team.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn tenant(&self, name: &str) -> Result<Self, SettingsError> {
        match self.tenants.iter().find(|tenant| tenant.name == name) {
            Some(tenant) => Ok(self.of(tenant)),
            None => Err(SettingsError::Invalid {
                key: "tenants",
                reason: format!("there is no team {name:?}; name one of [tenants.NAME] in the settings"),
            }),
        }
    }

    /// A team's settings, in places of its own beside those of the installation, wherever the command line has put them.
    fn of(&self, tenant: &Tenant) -> Self {
        let mut settings = tenant.settings.clone();
        let name = &tenant.name;
        let own_key = std::mem::take(&mut settings.server.api_key);
        settings.server = self.server.clone();
        settings.server.api_key = own_key;
        settings.data.folder = self.data.folder.join("tenants").join(name);
        settings.database = self.database.clone();
        settings.database.schema = format!("{}_{name}", self.database.schema);
        settings.index.collection = format!("{}_{name}", self.index.collection);
        settings
    }
}

/// The teams that the sources name, checked.
pub(super) fn read(sources: &Figment, base: &Settings) -> Result<Vec<Tenant>, SettingsError> {
    let mut tenants: Vec<Tenant> = Vec::new();
    for (name, written) in &base.written_tenants {
        let tenant = tenant(sources, name, written.clone())?;
        if let Some((other, host)) = taken(&tenants, &tenant.hosts) {
            return Err(invalid(name, &format!("the host {host} is {other}'s already")));
        }
        tenants.push(tenant);
    }
    Ok(tenants)
}

fn tenant(sources: &Figment, name: &str, mut written: Dict) -> Result<Tenant, SettingsError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        return Err(invalid(name, "a team's name has lower-case letters, digits and underscores, 24 at most"));
    }
    let hosts: Vec<String> = match written.remove("hosts") {
        Some(hosts) => hosts.deserialize().map_err(|error| SettingsError::Unreadable(Box::new(error)))?,
        None => Vec::new(),
    };
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    let is_host = |host: &String| !host.is_empty() && !host.contains(['/', ':', ' ', '*', '@']);
    if hosts.is_empty() || !hosts.iter().all(is_host) {
        return Err(invalid(name, "hosts names the team's hosts, such as [\"support.example.com\"], without a port"));
    }
    let key = written.remove("api_key").unwrap_or_else(|| Value::from(""));
    if let Some(other) = written.keys().find(|section| !OWN.contains(&section.as_str())) {
        return Err(invalid(
            name,
            &format!("{other} is not a team's own; it may set hosts, api_key, {}", OWN.join(", ")),
        ));
    }
    let own = sources.clone().merge(Serialized::defaults(written)).merge(Serialized::default("server.api_key", ""));
    let mut settings = Settings::read(&own)?;
    settings.server.api_key = key.deserialize().map_err(|error| SettingsError::Unreadable(Box::new(error)))?;
    if (1..16).contains(&settings.server.api_key.len()) {
        return Err(invalid(name, "api_key is shorter than 16 characters; choose a longer random one"));
    }
    settings.written_tenants.clear();
    Ok(Tenant { name: name.to_owned(), hosts, settings })
}

/// The team that has one of these hosts.
fn taken(tenants: &[Tenant], hosts: &[String]) -> Option<(String, String)> {
    tenants.iter().find_map(|tenant| {
        let host = tenant.hosts.iter().find(|host| hosts.contains(host))?;
        Some((tenant.name.clone(), host.clone()))
    })
}

fn invalid(name: &str, reason: &str) -> SettingsError {
    SettingsError::Invalid { key: "tenants", reason: format!("{name}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "[database]\nschema = \"desk\"\n[policy.default]\nmode = \"suggest\"\n\
        [tenants.acme]\nhosts = [\"Support.Acme.example\"]\napi_key = \"0123456789abcdef\"\npolicy = { default = { mode = \"off\" } }\n\
        [tenants.globex]\nhosts = [\"globex.example\", \"help.globex.example\"]\n";

    #[test]
    fn a_team_has_places_and_keys_of_its_own_and_its_own_word_on_what_is_its_own() {
        let base = Settings::parse(&format!("[server]\napi_key = \"abcdefghijklmnop\"\n{TWO}")).unwrap();
        let acme = base.tenant("acme").unwrap();
        let globex = base.tenant("globex").unwrap();
        assert_eq!(acme.data.folder, base.data.folder.join("tenants/acme"));
        assert_eq!((acme.database.schema.as_str(), globex.database.schema.as_str()), ("desk_acme", "desk_globex"));
        assert_ne!(acme.index.collection, globex.index.collection);
        assert_eq!((acme.server.api_key.as_str(), globex.server.api_key.as_str()), ("0123456789abcdef", ""));
        assert_ne!(format!("{:?}", acme.policy), format!("{:?}", base.policy));
        assert_eq!(format!("{:?}", globex.policy), format!("{:?}", base.policy));
        let hosts: Vec<_> = base.tenants().flat_map(|(tenant, _)| tenant.hosts.clone()).collect();
        assert_eq!(hosts, ["support.acme.example", "globex.example", "help.globex.example"]);
        assert!(base.tenant("nobody").is_err());
    }

    #[test]
    fn what_cannot_be_a_team_is_named() {
        for (text, said) in [
            ("[tenants.acme]\n", "hosts"),
            ("[tenants.acme]\nhosts = [\"a.example:80\"]\n", "without a port"),
            ("[tenants.\"A B\"]\nhosts = [\"a.example\"]\n", "lower-case"),
            ("[tenants.acme]\nhosts = [\"a.example\"]\nserver = { port = 1 }\n", "server is not a team's own"),
            ("[tenants.acme]\nhosts = [\"a.example\"]\napi_key = \"short\"\n", "16 characters"),
            ("[tenants.a]\nhosts = [\"x.example\"]\n[tenants.b]\nhosts = [\"X.example\"]\n", "already"),
            ("[tenants.a]\nhosts = [\"x.example\"]\nchat = { nonsense = 1 }\n", "nonsense"),
        ] {
            let error = Settings::parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
