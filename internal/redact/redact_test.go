package redact

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"kubernaut.ai/notification/internal/redact/redacttest"
)

func TestEachKindIsPlanted(t *testing.T) {
	planted := map[string]bool{}
	for _, p := range redacttest.All() {
		planted[p.Kind] = true
	}
	for _, kind := range kinds {
		if !planted[kind] {
			t.Errorf("no test plants a secret of kind %s", kind)
		}
	}
	if len(kinds) < 20 {
		t.Errorf("%d kinds; want 20 or more", len(kinds))
	}
}

func TestPlantedSecretsAreMasked(t *testing.T) {
	places := map[string]string{
		"alone":           "%s",
		"sentence":        "It failed, look: %s.",
		"line":            "before\n%s\nafter",
		"brackets":        "(%s)",
		"code span":       "`%s`",
		"bold":            "**%s**",
		"code block":      "```\n%s\n```",
		"list":            "- %s\n- other",
		"quote":           "> %s",
		"table":           "| a | %s | b |",
		"Windows lines":   "before\r\n%s\r\nafter",
		"beside umlauts":  "Schlüssel ä %s ü",
		"invalid UTF-8":   "\xff %s \xc3",
		"beside a secret": "password=hunter2 %s",
	}
	for _, p := range redacttest.All() {
		for place, format := range places {
			text := fmt.Sprintf(format, p.Text)
			masked, found := Text(text)
			if strings.Contains(masked, p.Secret) {
				t.Errorf("%s, %s: %q is still there: %q", p.Kind, place, p.Secret, masked)
				continue
			}
			if !strings.Contains(masked, markPrefix+p.Kind) {
				t.Errorf("%s, %s: masked as %+v: %q", p.Kind, place, found, masked)
			}
			for _, part := range strings.SplitN(format, "%s", 2) {
				restOfLine := p.Kind == "Cookie" || strings.Contains(p.Text, "Digest")
				if part = strings.TrimRight(part, ".)`*|> \r\n"); !restOfLine && place != "beside a secret" && !strings.Contains(masked, part) {
					t.Errorf("%s, %s: what surrounds it is gone: %q", p.Kind, place, masked)
				}
			}
			if again, more := Text(masked); again != masked || more != nil {
				t.Errorf("%s, %s: masked twice: %q, %+v\nfirst %q", p.Kind, place, again, more, masked)
			}
		}
	}
}

func TestEachPrefixOfAnIssuerIsKnown(t *testing.T) {
	var fills []string
	for _, n := range []int{12, 16, 24, 27, 32, 34, 35, 36, 48, 58, 64, 90} {
		fills = append(fills, strings.Repeat("7a", n)[:n], strings.Repeat("A2", n)[:n])
	}
	fills = append(fills, strings.Repeat("7a", 40)+"."+strings.Repeat("7a", 20), strings.Repeat("7a", 40)+".eyJ7."+strings.Repeat("7a", 20))
	for kind, prefixes := range map[string]string{
		"GitHubToken":       "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
		"GitLabToken":       "glpat- gloas- gldt- glrt- glrtr- glcbt- glptt- glft- glimt- glagent- glsoat- GR1348941",
		"SlackToken":        "xoxb- xoxp- xoxa- xoxc- xoxd- xoxr- xoxs- xoxe- xoxe.xoxp- xoxe.xoxb- xapp- xwfp-",
		"AWSAccessKey":      "AKIA ASIA ABIA ACCA",
		"GoogleAPIKey":      "AIza",
		"GoogleOAuthToken":  "ya29. GOCSPX- 1//0",
		"AlibabaAccessKey":  "LTAI",
		"DigitalOceanToken": "dop_v1_ doo_v1_ dor_v1_",
		"VaultToken":        "hvs. hvb. hvr.",
		"NPMToken":          "npm_",
		"PyPIToken":         "pypi-AgE",
		"RubyGemsToken":     "rubygems_",
		"DockerToken":       "dckr_pat_ dckr_oat_",
		"StripeKey":         "sk_live_ sk_test_ rk_live_ rk_test_",
		"WebhookSecret":     "whsec_ whsk_",
		"SendGridKey":       "SG.",
		"OpenAIKey":         "sk-proj- sk-svcacct- sk-admin- sk-",
		"AnthropicKey":      "sk-ant-",
		"HuggingFaceToken":  "hf_",
		"GrafanaToken":      "glsa_ glc_",
		"NewRelicKey":       "NRAK-",
		"SentryToken":       "sntrys_ sntryu_",
		"DatabricksToken":   "dapi",
		"AtlassianToken":    "ATATT3 ATCTT3",
		"ShopifyToken":      "shpat_ shpss_ shpca_ shppa_",
		"TailscaleKey":      "tskey-",
		"LinearKey":         "lin_api_",
		"OnePasswordToken":  "ops_eyJ",
		"AgeSecretKey":      "AGE-SECRET-KEY-1",
		"JWT":               "eyJ",
		"PasswordHash":      "$2a$ $2b$ $2y$ $y$ $1$ $apr1$ $5$ $6$ $argon2",
	} {
		for prefix := range strings.FieldsSeq(prefixes) {
			if !slices.ContainsFunc(fills, func(fill string) bool {
				masked, _ := Text("see " + prefix + fill + ", please")
				return masked == "see "+markPrefix+kind+", please"
			}) {
				t.Errorf("nothing that begins with %s is masked as %s", prefix, kind)
			}
		}
	}
}

func TestValuesOfSecretNamesAreMasked(t *testing.T) {
	for in, want := range map[string]string{
		`password: hunter2`:                          `password: REDACTED-Password`,
		`**password:** hunter2`:                      `**password:** REDACTED-Password`,
		`**password**: hunter2`:                      `**password**: REDACTED-Password`,
		`__Password:__ hunter2 is new`:               `__Password:__ REDACTED-Password is new`,
		"`password`: `hunter2`":                      "`password`: `REDACTED-Password`",
		"**password: hunter2**":                      "**password: REDACTED-Password**",
		`{"password": "correct horse", "a": 1}`:      `{"password": "REDACTED-Password", "a": 1}`,
		`{"password":"a\"b c","user":"x"}`:           `{"password":"REDACTED-Password","user":"x"}`,
		`msg="{\"password\":\"hunter2\",\"a\":1}"`:   `msg="{\"password\":\"REDACTED-Password\",\"a\":1}"`,
		`PASSWORD=x`:                                 `PASSWORD=REDACTED-Password`,
		`export DB_PASSWORD='a b';`:                  `export DB_PASSWORD='REDACTED-Password';`,
		`--password x --user y`:                      `--password REDACTED-Password --user y`,
		`--db-password=x`:                            `--db-password=REDACTED-Password`,
		`spring.datasource.password=hunter2`:         `spring.datasource.password=REDACTED-Password`,
		`<password>hunter2</password>`:               `<password>REDACTED-Password</password>`,
		`<b>Password:</b> hunter2`:                   `<b>Password:</b> REDACTED-Password`,
		`| password | hunter2 |`:                     `| password | REDACTED-Password |`,
		`The password is hunter2, change it`:         `The password is REDACTED-Password, change it`,
		`passphrase: correct horse battery`:          `passphrase: REDACTED-Password`,
		"- name: DB_PASSWORD\n  value: hunter2\n":    "- name: DB_PASSWORD\n  value: REDACTED-Password\n",
		`{"name":"DB_PASSWORD","value":"hunter2"}`:   `{"name":"DB_PASSWORD","value":"REDACTED-Password"}`,
		`Server=db;User=sa;Password=p@ss!;Encrypt=1`: `Server=db;User=sa;Password=REDACTED-Password;Encrypt=1`,
		`{user=app, password=hunter2, host=db}`:      `{user=app, password=REDACTED-Password, host=db}`,
		`user=app,password=hunter2,host=db`:          `user=app,password=REDACTED-Password,host=db`,
		`password=a,b`:                               `password=REDACTED-Password`,
		`ALTER USER a PASSWORD 'hunter2'`:            `ALTER USER a PASSWORD 'REDACTED-Password'`,
		`machine h login me password hunter2`:        `machine h login me password REDACTED-Password`,
		`AccountName=a;AccountKey=ab12cd34==;x=y`:    `AccountName=a;AccountKey=REDACTED-SecretKey;x=y`,
		`https://h/p?token=abc123def&x=1#top`:        `https://h/p?token=REDACTED-Token&x=1#top`,
		`[log](https://h/p?api_key=abc123def)`:       `[log](https://h/p?api_key=REDACTED-SecretKey)`,
		`https://me:secret1@h/p`:                     `https://REDACTED-URLCredentials@h/p`,
		`https://abc123@h/p`:                         `https://REDACTED-URLCredentials@h/p`,
		`redis://:p@ss@cache:6379/0`:                 `redis://REDACTED-URLCredentials@cache:6379/0`,
		`client_secret: ab12cd34ef56ab12`:            `client_secret: REDACTED-Secret`,
		`apiKey: "ab12cd34"`:                         `apiKey: "REDACTED-SecretKey"`,
		`API key: ab12cd34`:                          `API key: REDACTED-SecretKey`,
		`password=über¢`:                             `password=REDACTED-Password`,
		`password="unfinished`:                       `password="REDACTED-Password`,
		`passwd=x passcode: y pwd = z`:               `passwd=REDACTED-Password passcode: REDACTED-Password pwd = REDACTED-Password`,
		`DB_PASS=ab12cd34`:                           `DB_PASS=REDACTED-Password`,
		`credential: ab12cd34ef56ab12`:               `credential: REDACTED-Credentials`,
		`IDENTIFIED BY 'a b'`:                        `IDENTIFIED BY 'REDACTED-Password'`,
		`sshpass -p x ssh h`:                         `sshpass -p REDACTED-Password ssh h`,
		`Authorization: ab12cd34ef56ab12`:            `Authorization: REDACTED-AuthorizationHeader`,
		`password: >-`:                               `password: >-`,
		`Cookie: a=b; c=d`:                           `Cookie: REDACTED-Cookie`,
		`{"Authorization": "Bearer abc"}`:            `{"Authorization": "Bearer REDACTED-AuthorizationHeader"}`,
		"-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkq\\nabc=\\n-----END PRIVATE KEY-----\\n": "REDACTED-PrivateKey\\n",
		"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6":         "REDACTED-PrivateKey",
	} {
		if masked, _ := Text(in); masked != want {
			t.Errorf("%q\nbecomes %q\nwant    %q", in, masked, want)
		}
	}
}

func TestWhatIsNoSecretStays(t *testing.T) {
	for _, text := range []string{
		"",
		"The disk of db-0 is 95% full.",
		"request 7f4c0c1e-8f0e-4a53-9f1a-2f2f0f6c9d11 failed at 2026-11-23T14:00:00.123456Z",
		"registry.example.com/shop/web@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		"commit 4b825dc642cb6eb9a060e54bf8d69288fbee4904 (HEAD -> main)",
		"web-7d4b9c6f5-x2x9q   1/1   Running   3 (12m ago)   4d2h   10.244.1.17   node-1",
		"NAME   TYPE     DATA   AGE\ndb-credentials   Opaque   2   4d\ndefault-token-x2x9q   kubernetes.io/service-account-token   3   90d",
		"secretName: foo", "secret:\n  secretName: db-credentials", "secret: db-credentials", "imagePullSecret: registry-eu-1",
		"passwordSecretRef:\n  name: db\n  key: password\n", "passwordFile: /run/secrets/db", "tokenPath: /var/run/token",
		"token: <none>", "token: \"\"", "token: null", "password: ***", "password: ********", "password: <nil>",
		"password=${DB_PASSWORD}", "password: {{ .Values.password }}", "password: $(DB_PASSWORD)", "PASSWORD=$DB_PASSWORD",
		"password: [hidden]", "password: /run/secrets/db-password", "password:  7 bytes", "token:     1003 bytes",
		"Access denied for user 'app'@'10.0.0.7' (using password: YES)",
		"password authentication failed for user \"postgres\"",
		"The password is incorrect.", "Wrong password: 3 attempts left.", "password: must not be empty",
		"token: expired", "The token is invalid", "token_type: Bearer", "max_tokens: 4096", "token: 15m", "invalid token: unauthorized",
		"secret/db-credentials created", "secret \"db-credentials\" not found", "secrets: [a, b]",
		"goroutine 17 [running]:\nmain.(*Token).Parse(0xc000123450, {0x7ffd12, 0x10})\n\t/src/token.go:42 +0x1d",
		"java.lang.IllegalStateException: no key\n\tat com.example.auth.TokenStore.get(TokenStore.java:117)",
		"https://example.com/a/b?page=2&sort=key#top", "https://grafana.example.com/d/abc123/nodes?orgId=1&from=now-6h&var-key=cpu",
		"ssh://git@github.com/org/repo", "git@github.com:org/repo.git", "mail ops@example.com", "npm i @scope/pkg@1.2.3",
		"https://host.example.com:8443/npm/@scope/pkg", "postgres://app@db/shop",
		"base64: aGVsbG8= d29ybGQ=", "eyJhIjoxfQ==", "Basic dGVzdA==", "basic authentication", "Bearer authentication required",
		"Authorization: denied", "authorization: RBAC", "cookie: none", "the monkey: banana12", "keyboard: qwerty123456",
		"key: value123456", "routing_key=orders.created.v1", "routing key: orders.created.something", "service key: db-0-primary", "primary_key=abc123def", "PWD=/home/app/work", "tests pass: 12 fail: 3", "bypass: true",
		"events.k8s.io/v1 Event", "abcdef.example.com", "10.0.0.1:8080", "v1.29.3-gke.1282000", "task-1234567890abcdefghijklmnopqrstuvwxyz",
		"risk-ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "AKIAlooksLikeOne", "lowercase akia1234567890123456",
		"see docs.example.com/reset-password for your password", "ПАРОЛЬ", "кот: 1", "日本語のテキスト",
		"nodes1.internalexample", "Subject: [FIRING:2] KubePodCrashLooping (shop web critical)",
	} {
		if masked, found := Text(text); masked != text || found != nil {
			t.Errorf("%q\nbecomes %q, %+v", text, masked, found)
		}
	}
}

func TestNamedMasksTheWholeValueOfASecretName(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"password", "correct horse battery", "REDACTED-Password"},
		{"DB_PASSWORD", "x", "REDACTED-Password"},
		{"Password:", "x", "REDACTED-Password"},
		{"api key", "ab12cd34", "REDACTED-SecretKey"},
		{"password", "***", "***"},
		{"password", "REDACTED-Password", "REDACTED-Password"},
		{"secret", "db-credentials", "db-credentials"},
		{"token", "expired", "expired"},
		{"key", "ab12cd34", "ab12cd34"},
		{"monkey", "ab12cd34", "ab12cd34"},
		{"log", "password=x y", "password=REDACTED-Password y"},
		{"node", "db-0", "db-0"},
	} {
		if got, _ := Named(test.name, test.value); got != test.want {
			t.Errorf("%s: %q becomes %q, want %q", test.name, test.value, got, test.want)
		}
	}
}

func TestWholeLeavesNothingOfASecret(t *testing.T) {
	if got, found := Whole("a password=x b"); got != "REDACTED-Password" || len(found) != 1 {
		t.Errorf("got %q, %+v", got, found)
	}
	if got, found := Whole("incident-4711"); got != "incident-4711" || found != nil {
		t.Errorf("got %q, %+v", got, found)
	}
}

func TestFindingsCountByKind(t *testing.T) {
	_, found := Text("password=a1 token=abc123def password=b2")
	want := []Finding{{Kind: "Password", Count: 2}, {Kind: "Token", Count: 1}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}

func TestMarksAreNoSecrets(t *testing.T) {
	for _, kind := range kinds {
		for _, format := range []string{"%s", "password=%s", "%s: abc123def", "%s=abc123", "https://%s@host/?token=%[1]s", "password=%s-7", "Cookie: %s", "Bearer %s"} {
			text := fmt.Sprintf(format, markPrefix+kind)
			if masked, found := Text(text); masked != text || found != nil {
				t.Errorf("%q becomes %q, %+v", text, masked, found)
			}
		}
	}
}

func TestTheDocumentationNamesEachKind(t *testing.T) {
	page, err := os.ReadFile("../../docs/redaction.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if !strings.Contains(string(page), "| `"+kind+"` |") {
			t.Errorf("docs/redaction.md has no row for %s", kind)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, p := range redacttest.All() {
		f.Add(p.Text)
		f.Add(`{"password": "` + p.Text + `", x}` + p.Text)
	}
	f.Add("password=-----BEGIN RSA PRIVATE KEY-----\nabcdefgh1234\n-----END RSA PRIVATE KEY-----xyz")
	f.Fuzz(func(t *testing.T, s string) {
		masked, found := Text(s)
		if utf8.ValidString(s) && !utf8.ValidString(masked) {
			t.Errorf("%q becomes invalid UTF-8: %q", s, masked)
		}
		if (masked == s) != (found == nil) {
			t.Errorf("%q becomes %q with %+v", s, masked, found)
		}
		if again, more := Text(masked); again != masked || more != nil {
			t.Errorf("%q\nbecomes %q\nand then %q, %+v", s, masked, again, more)
		}
		Named("password", s)
	})
}

// shapes are texts that ask the most of one part or another, of n bytes.
func shapes(n int) map[string]string {
	fill := func(unit string) string { return strings.Repeat(unit, n/len(unit)) }
	all := map[string]string{
		"prose":             fill("The disk of db-0 is 95% full, see https://example.com/run?id=7 for what to do.\n"),
		"one line":          fill("a"),
		"names":             fill("password token secret "),
		"names and signs":   fill("password:token="),
		"open quotes":       fill(`password="a `),
		"open escapes":      fill(`token:\"a `),
		"kept values":       fill("password:'<none>' "),
		"prefixes":          fill("-AIza"),
		"JWT heads":         fill(".eyJ"),
		"begin without end": fill("-----BEGIN PRIVATE KEY-----\n"),
		"half a URL":        fill("https://a:b"),
		"half a header":     fill("authorization:bearer "),
		"half a command":    fill("curl "),
		"signs":             fill("?sig=&"),
		"digits":            fill("123456789:"),
		"variables":         fill("password:$("),
		"paths":             fill("password:/a"),
		"object names":      fill("secret:a-"),
		"hints":             fill("cookie= login x identified by sshpass basic \"auth\":\"?sig=& office.com/webhook hooks/ q~ "),
	}
	secrets := ""
	for _, p := range redacttest.All() {
		secrets += p.Text + "\n"
	}
	all["secrets"] = fill(secrets)
	return all
}

// spent returns the processor time that this thread has used, which the rest of a
// busy machine does not add to.
func spent(t *testing.T) time.Duration {
	t.Helper()
	const thread = 1 // RUSAGE_THREAD of getrusage(2) on Linux
	var usage syscall.Rusage
	if err := syscall.Getrusage(thread, &usage); err != nil {
		t.Skip("this system does not tell what a thread uses: ", err)
	}
	return time.Duration(usage.Utime.Nano())
}

// TestTimeIsLinear compares a text with one sixteen times as long. Quadratic time
// would take 256 times as long.
func TestTimeIsLinear(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const n, times = 16 << 10, 16
	long := shapes(times * n)
	for name, short := range shapes(n) {
		start := spent(t)
		for range times {
			Text(short)
		}
		middle := spent(t)
		Text(long[name])
		if many, one := middle-start, spent(t)-middle; one > 4*many+50*time.Millisecond { // kernels count in ticks
			t.Errorf("%s: %s for %d texts of %d bytes, %s for one of as many in all", name, many, times, n, one)
		}
	}
}

func BenchmarkText(b *testing.B) {
	for name, text := range shapes(32 << 10) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				Text(text)
			}
		})
	}
}
