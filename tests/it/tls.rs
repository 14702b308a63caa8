//! A server that wants TLS, a client certificate, or a password; and what is said when it gets another.

use std::{
    env, fs,
    process::{Command, Output},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use redis::Commands;

use crate::support::{Project, Redis, STREAM, free_port, text};

/// Says so if the server that was chosen for these tests was built without TLS. The installed one has it.
fn without_tls() -> bool {
    let Some(server) = env::var_os("TICKHOUND_TEST_SERVER") else { return false };
    // Without a certificate it ends at once, and says why.
    let output = Command::new(&server).args(["--port", "0", "--tls-port", "1"]).output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    let without = !said.contains("No tls-cert-file configured");
    if without {
        println!("{} was built without TLS; nothing is tested", server.display());
    }
    without
}

/// Signs certificates; its own is in a file of its name.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key of a host, in PEM.
    fn sign(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A server with TLS on a port, and a project that is to reach it there.
struct Secured {
    redis: Redis,
    project: Project,
    tls_port: u16,
    plain_port: u16,
}

impl Secured {
    /// Its certificate is for `host`; with `mutual` it wants one of the same authority.
    fn start(authority: &Authority, host: &str, mutual: bool) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (cert, key) = authority.sign(host);
        let file = |name: &str, pem: &str| {
            let path = files.path().join(name);
            fs::write(&path, pem).unwrap();
            path.display().to_string()
        };
        let (cert, key, ca) = (file("cert", &cert), file("key", &key), file("ca", &authority.pem));
        let (tls_port, plain_port) = (free_port(), free_port());
        let (tls, plain) = (tls_port.to_string(), plain_port.to_string());
        let redis = Redis::start_with(&[
            "--bind",
            "127.0.0.1",
            "--port",
            &plain,
            "--tls-port",
            &tls,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            if mutual { "yes" } else { "no" },
        ]);
        let project = Project::new(&redis);
        fs::create_dir(project.path("certs")).unwrap();
        fs::write(project.path("certs/ca.pem"), &authority.pem).unwrap();
        let (cert, key) = authority.sign("tickhound");
        fs::write(project.path("certs/cert.pem"), cert).unwrap();
        fs::write(project.path("certs/key.pem"), key).unwrap();
        Self { redis, project, tls_port, plain_port }
    }

    fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    /// `keys` are those of `[stream]` beside the URL.
    fn configure(&self, url: &str, keys: &str) {
        let detectors = "[detectors.breakout]\nplugin = \"breakout\"";
        self.project.write_config(&format!("[stream]\nurl = \"{url}\"\ntimeout_ms = 1000\n{keys}\n{detectors}"));
    }

    /// What feed, check, status and dead say, all of which must fail.
    fn refusals(&self) -> Vec<String> {
        let feed = &["feed", "--simulate", "--count", "5"][..];
        let commands = [feed, &["check"], &["status"], &["dead", "list"]];
        commands.iter().map(|args| refused(&self.project.output(args), args)).collect()
    }
}

fn refused(output: &Output, args: &[&str]) -> String {
    assert_ne!(output.status.code(), Some(0), "{args:?}");
    text(&output.stdout) + &text(&output.stderr)
}

const CA: &str = "tls_ca = \"certs/ca.pem\"";
const MUTUAL: &str = "tls_ca = \"certs/ca.pem\"\ntls_cert = \"certs/cert.pem\"\ntls_key = \"certs/key.pem\"";

fn works(secured: &Secured) {
    let Secured { redis, project, .. } = secured;
    project.feed(5, 1000, &[]);
    project.run(&["check"]);
    project.run(&["run", "--drain"]);
    assert!(text(&project.output(&["status"]).stdout).contains("every entry is processed"));
    project.run(&["dead", "list"]);
    assert_eq!((redis.totals()["entries"], redis.pending()), (1000, 0));
}

#[test]
fn ticks_are_processed_over_tls() {
    if without_tls() {
        return;
    }
    let secured = Secured::start(&Authority::new("ours"), "127.0.0.1", false);
    secured.configure(&secured.url(), CA);
    works(&secured);
    // The lease is renewed on a connection of its own.
    let mut host = secured.project.start_owner();
    secured.project.feed(5, 500, &[]);
    secured.redis.wait_all_processed(1500);
    host.stop();
}

#[test]
fn a_server_that_asks_for_a_client_certificate_gets_it() {
    if without_tls() {
        return;
    }
    let ours = Authority::new("ours");
    let secured = Secured::start(&ours, "127.0.0.1", true);
    secured.configure(&secured.url(), MUTUAL);
    works(&secured);

    secured.configure(&secured.url(), CA);
    for said in secured.refusals() {
        assert!(said.contains("the server requires a client certificate that it trusts"), "{said}");
        assert!(said.contains("stream.tls_cert and stream.tls_key"), "{said}");
    }
    let (cert, key) = Authority::new("theirs").sign("tickhound");
    fs::write(secured.project.path("certs/cert.pem"), cert).unwrap();
    secured.configure(&secured.url(), MUTUAL);
    for said in secured.refusals() {
        assert!(said.contains("stream.tls_cert and stream.tls_key can't be used together"), "{said}");
    }
    fs::write(secured.project.path("certs/key.pem"), key).unwrap();
    for said in secured.refusals() {
        assert!(said.contains("the server requires a client certificate that it trusts"), "{said}");
    }
}

#[test]
fn a_server_that_can_not_be_trusted_is_refused() {
    if without_tls() {
        return;
    }
    let secured = Secured::start(&Authority::new("ours"), "127.0.0.1", false);
    secured.configure(&secured.url(), "");
    for said in secured.refusals() {
        let expected = "is not signed by an authority this machine trusts: name its CA in stream.tls_ca";
        assert!(said.contains(expected), "{said}");
    }
    fs::write(secured.project.path("certs/ca.pem"), Authority::new("theirs").pem).unwrap();
    secured.configure(&secured.url(), CA);
    for said in secured.refusals() {
        assert!(said.contains("is not signed by an authority in stream.tls_ca"), "{said}");
    }
    let mut host = secured.project.start(&["run"]);
    host.wait_for_event_with("redis_unavailable", "is not signed by an authority in stream.tls_ca");
    host.kill();

    // The authorities that the machine trusts are those that its own tools use too.
    let trusting = Secured::start(&Authority::new("ours"), "127.0.0.1", false);
    trusting.configure(&trusting.url(), "");
    let mut check = trusting.project.command(&["check"]);
    let output = check.env("SSL_CERT_FILE", trusting.project.path("certs/ca.pem")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    if without_tls() {
        return;
    }
    let secured = Secured::start(&Authority::new("ours"), "redis.example", false);
    secured.configure(&secured.url(), CA);
    for said in secured.refusals() {
        let expected = "the server's certificate is not for 127.0.0.1, but for redis.example: ";
        assert!(said.contains(expected) && said.contains("stream.url"), "{said}");
    }
}

#[test]
fn the_wrong_kind_of_port_is_reported() {
    if without_tls() {
        return;
    }
    let secured = Secured::start(&Authority::new("ours"), "127.0.0.1", false);
    secured.configure(&format!("rediss://127.0.0.1:{}", secured.plain_port), CA);
    for said in secured.refusals() {
        assert!(said.contains("if the server does not use TLS on this port, write redis:// in stream.url"), "{said}");
    }
    secured.configure(&format!("redis://127.0.0.1:{}", secured.tls_port), "");
    for said in secured.refusals() {
        assert!(said.contains("if it uses TLS on this port, write rediss:// in stream.url"), "{said}");
    }
    secured.configure(&format!("redis://127.0.0.1:{}", secured.plain_port), "");
    works(&secured);
}

#[test]
fn files_that_can_not_be_used_are_named() {
    if without_tls() {
        return;
    }
    let secured = Secured::start(&Authority::new("ours"), "127.0.0.1", false);
    fs::write(secured.project.path("certs/empty.pem"), "nothing\n").unwrap();
    let cert = "tls_cert = \"certs/cert.pem\"";
    let cases = [
        ("tls_ca = \"certs/none.pem\"".to_owned(), "stream.tls_ca: can't read ./certs/none.pem"),
        (
            "tls_ca = \"certs/empty.pem\"".to_owned(),
            "stream.tls_ca: ./certs/empty.pem does not hold a certificate (PEM)",
        ),
        (format!("{cert}\ntls_key = \"none\""), "stream.tls_key: can't read ./none"),
        (
            format!("{cert}\ntls_key = \"certs/ca.pem\""),
            "stream.tls_key: ./certs/ca.pem does not hold a private key (PEM",
        ),
        (cert.to_owned(), "config/config.toml:4:1: stream.tls_cert requires stream.tls_key"),
        ("tls_key = \"certs/key.pem\"".to_owned(), "stream.tls_key requires stream.tls_cert"),
    ];
    for (keys, expected) in cases {
        secured.configure(&secured.url(), &keys);
        for args in [&["check"][..], &["run"], &["feed", "--simulate", "--count", "1"]] {
            let said = refused(&secured.project.output(args), args);
            assert!(said.contains(expected), "expected {expected:?} in {said}");
        }
    }
    secured.configure(&format!("redis://127.0.0.1:{}", secured.plain_port), CA);
    let said = refused(&secured.project.output(&["check"]), &["check"]);
    assert!(said.contains("stream.tls_ca is set, but stream.url is not rediss://"), "{said}");
    secured.configure(&format!("{}/#insecure", secured.url()), "");
    let said = refused(&secured.project.output(&["check"]), &["check"]);
    assert!(said.contains("#insecure is not supported"), "{said}");
}

/// A server with a password, over TLS and on a socket: the right one works, what is wrong is told, and
/// no output holds it.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn passwords_work_and_are_never_shown() {
    if without_tls() {
        return;
    }
    const PASSWORD: &str = "s3cr3t";
    const WRONG: &str = "wr0ng";
    let secured = Secured::start(&Authority::new("ours"), "127.0.0.1", false);
    let Secured { redis, project, tls_port, .. } = &secured;
    secured.configure(&secured.url(), CA);
    let mut connection = redis.connect();
    let socket = redis.url();
    for (command, last) in [("ACL", "ticker"), ("CONFIG", "requirepass")] {
        let mut set = redis::cmd(command);
        match command {
            "ACL" => set.arg("SETUSER").arg(last).arg("on").arg(format!(">{PASSWORD}")).arg("~*").arg("+@all"),
            _ => set.arg("SET").arg(last).arg(PASSWORD),
        };
        let _: () = set.query(&mut connection).unwrap();
    }
    let outputs = |url: &str| -> Vec<Output> {
        let commands = [
            &["feed", "--simulate", "--count", "200"][..],
            &["check"],
            &["run", "--drain", "--debug"],
            &["status"],
            &["status", "--json"],
            &["dead", "list"],
        ];
        // Without the right password a run waits for it.
        let commands = commands.iter().filter(|args| url.contains(PASSWORD) || args[0] != "run");
        let run = |args: &&[&str]| project.command(args).env("TICKHOUND_STREAM__URL", url).output().unwrap();
        commands.map(run).collect()
    };
    let said = |output: &Output| {
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains(PASSWORD) && !said.contains(WRONG), "{said}");
        said
    };
    let tls = |user: &str| format!("rediss://{user}127.0.0.1:{tls_port}");
    // No TLS on a socket, so no files for it.
    let without_files = |url: &str| {
        project
            .command(&["check"])
            .env("TICKHOUND_STREAM__URL", url)
            .env("TICKHOUND_STREAM__TLS_CA", "")
            .output()
            .unwrap()
    };

    for url in [tls(&format!(":{PASSWORD}@")), tls(&format!("ticker:{PASSWORD}@"))] {
        for output in outputs(&url) {
            // `status` fails when no host is running, and says so.
            let is_worked = said(&output).contains("every entry is processed");
            assert!(output.status.success() || is_worked, "{}", said(&output));
        }
    }
    let output = without_files(&format!("{socket}?user=ticker&pass={PASSWORD}"));
    assert!(output.status.success() && said(&output).contains("ok: redis at /"), "{}", said(&output));

    for url in [tls(&format!(":{WRONG}@")), tls(&format!("ticker:{WRONG}@")), tls(&format!("nobody:{PASSWORD}@"))] {
        for output in outputs(&url.replace(PASSWORD, WRONG)) {
            assert!(!output.status.success());
            assert!(
                said(&output).contains("the server rejects the user or password in stream.url"),
                "{}",
                said(&output)
            );
        }
    }
    let output = without_files(&format!("{socket}?user=ticker&pass={WRONG}@{WRONG}"));
    assert!(!output.status.success() && said(&output).contains("rejects the user or password"), "{}", said(&output));
    for output in outputs(&tls("")) {
        assert!(!output.status.success());
        assert!(said(&output).contains("the server requires a password"), "{}", said(&output));
    }

    let mut host = project.start_with(&["run", "--debug"], &[("TICKHOUND_STREAM__URL", &tls(&format!(":{WRONG}@")))]);
    host.wait_for_event_with("redis_unavailable", "the server rejects the user or password in stream.url");
    host.kill();
    assert!(!host.log().contains(WRONG), "{}", host.log());

    // A URL that is none may hold it too.
    let mistyped = format!("redis//:{PASSWORD}@127.0.0.1");
    for args in [&["check"][..], &["status"], &["feed", "--simulate", "--count", "1"], &["dead", "list"]] {
        let output = project.command(args).env("TICKHOUND_STREAM__URL", &mistyped).output().unwrap();
        assert!(!output.status.success() && said(&output).contains("stream.url"), "{}", said(&output));
    }
    assert_eq!(connection.xlen::<_, u64>(STREAM).unwrap(), 400, "both users have fed");
}
