package redact

import (
	stdbase64 "encoding/base64"
	"regexp"
	"strings"
)

const (
	privateKey = "PrivateKey"
	pemBlock   = "PEMBlock"
)

// form is a secret that is known by what it is part of. The first group of the
// expression is the secret.
type form struct {
	kind string
	// line has the expression tried on lines, else on what is between spaces, quotes
	// and angle brackets.
	line bool
	// hints are in lower case; the expression is tried only where one of them is.
	hints []string
	re    *regexp.Regexp
	// alone secrets are of a fixed length, and no word goes on after them. The
	// expression must not say so itself: it would take away what the next one begins
	// with.
	alone bool
	// check has the last word about the secret, where it is set.
	check func(string) bool
}

// forms has each form with the page that describes it.
var forms = []form{
	// RFC 3986, section 3.2.1. In http a name alone is often a token; elsewhere it is
	// git, or a role. Passwords with an unescaped @ or slash are common enough; what
	// looks like a port and a path is none.
	{
		kind: "URLCredentials", hints: []string{"://"},
		re:    regexp.MustCompile("(?i)\\bhttps?://([^\\s/?#\"'<>`@][^\\s/?#\"'<>`]*)@"),
		check: func(s string) bool { return !placeholder(strings.Trim(s, ":")) },
	},
	{
		kind: "URLCredentials", hints: []string{"://"},
		re: regexp.MustCompile("://([^\\s/?#\"'<>`@:]*:[^\\s/?#\"'<>`]+)@"), check: password,
	},
	{
		kind: "URLCredentials", hints: []string{"://"},
		re:    regexp.MustCompile("://([^\\s/?#\"'<>`@:]*:[^\\s\"'<>`@]+)@"),
		check: func(s string) bool { return !portAndPath.MatchString(s) && password(s) },
	},
	// docs.slack.dev/messaging/sending-messages-using-incoming-webhooks.
	{
		kind: "SlackWebhook", hints: []string{"hooks.slack"},
		re: regexp.MustCompile(`(?i)hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/([\w/%+-]*\w)`),
	},
	// discord.com/developers/docs/resources/webhook.
	{
		kind: "DiscordWebhook", hints: []string{"/webhooks/"},
		re: regexp.MustCompile(`(?i)discord(?:app)?\.com/api/(?:v\d+/)?webhooks/(\d+/[\w-]+)`),
	},
	// learn.microsoft.com, "Create incoming webhooks with Workflows for Microsoft
	// Teams", and the Connectors before them.
	{
		kind: "TeamsWebhook", hints: []string{"office.com/webhook", "office365.com/webhook"},
		re: regexp.MustCompile("(?i)(?:webhook|outlook)\\.office(?:365)?\\.com/webhook(?:b2)?/([^\\s\"'<>`)\\]]+)"),
	},
	{
		kind: "TeamsWebhook", hints: []string{"sig="},
		re: regexp.MustCompile("(?i)\\.(?:logic\\.azure|powerplatform|powerautomate)\\.com(?::\\d+)?/[^\\s\"'<>`]*?[?&]sig=([^\\s&#\"'<>`)\\]]+)"),
	},
	// developers.google.com/workspace/chat/quickstart/webhooks.
	{
		kind: "GoogleChatWebhook", hints: []string{"chat.googleapis.com"},
		re: regexp.MustCompile("(?i)chat\\.googleapis\\.com/v1/spaces/[\\w/-]+\\?([^\\s\"'<>`)\\]]*(?:key|token)=[^\\s\"'<>`)\\]]+)"),
	},
	// developers.mattermost.com/integrate/webhooks/incoming;
	// open.larksuite.com/document, "Custom bot"; docs.zapier.com, "Webhooks by
	// Zapier".
	{
		kind: "WebhookURL", hints: []string{"hook/", "hooks/"},
		re: regexp.MustCompile(`(?i)(?:://[\w.:-]+/(?:\w+/)?hooks/|open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/(?:v2/)?hook/|hooks\.zapier\.com/hooks/catch/\d+/)([\w-]{6,})`),
	},
	// developer.pagerduty.com/docs/events-api-v1: the key is in the path.
	{
		kind: "PagerDutyKey", hints: []string{"pagerduty.com/integration/"},
		re: regexp.MustCompile(`(?i)events\.(?:eu\.)?pagerduty\.com/integration/(\w{20,})`),
	},
	// Names of query parameters that carry a signature or a key: AWS's and Google's
	// signed URLs, Azure's shared access signatures (learn.microsoft.com, "Create a
	// service SAS") and function keys. Names such as token are among the keywords.
	{
		kind: "URLParameter", hints: []string{"?", "&", ";"},
		re:    regexp.MustCompile("(?i)[?&;](?:sig|signature|x-(?:amz|goog)-(?:signature|credential)|code|key|auth|jwt|sessionid|sid)=([^\\s&#;\"'<>`)\\]]{16,})"),
		check: mixed,
	},
	// developer.pagerduty.com/docs/events-api-v2: 32 letters and digits. Others call
	// what is no secret a routing key.
	{
		kind: "PagerDutyKey", line: true, hints: []string{"routing", "integration"},
		re: regexp.MustCompile(`(?i)(?:routing|integration)[-_ ]?key[^\w\n]{1,8}([a-z0-9]{32})\b`), check: mixed,
	},
	// core.telegram.org/bots/api#authorizing-your-bot.
	{
		kind: "TelegramBotToken", hints: []string{":"}, alone: true,
		re:    regexp.MustCompile(`(?:\bbot|\b)(\d{8,10}:[\w-]{35})`),
		check: mixed,
	},
	// discord.com/developers/docs/reference#authentication.
	{
		kind: "DiscordBotToken", hints: []string{"."},
		re:    regexp.MustCompile(`\b([MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40})`),
		check: mixed,
	},
	// kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens, "Token Format".
	{
		kind: "BootstrapToken", hints: []string{"."}, alone: true,
		re:    regexp.MustCompile(`(?:^|[^\w.-])([a-z0-9]{6}\.[a-z0-9]{16})`),
		check: func(s string) bool { return mixed(s[7:]) },
	},
	// learn.microsoft.com, "Microsoft Entra app client secret", entity definition.
	{
		kind: "AzureClientSecret", hints: []string{"q~"}, alone: true,
		re: regexp.MustCompile(`(?:^|[^\w~.-])([\w~.-]{3}\dQ~[\w~.-]{31,34})`),
	},
	// RFC 9110, section 11.6.2. The credentials of schemes with parameters take the
	// rest of the line.
	{
		kind: "AuthorizationHeader", line: true, hints: []string{"authorization"},
		re: regexp.MustCompile("(?i)authorization[\"'`*_\\\\]{0,4}[ \\t]{0,4}[:=][\"'`*_\\\\ \\t]{0,8}(?:digest|aws4-hmac-sha256)[ \\t]+([^\\r\\n\"'`]*[^\\s\"'`])"),
	},
	{
		kind: "AuthorizationHeader", line: true, hints: []string{"authorization"},
		re: regexp.MustCompile("(?i)authorization[\"'`*_\\\\]{0,4}[ \\t]{0,4}[:=][\"'`*_\\\\ \\t]{0,8}" +
			"(?:bearer|basic|token|negotiate|ntlm|bot|splunk|hmac|sso-key|api-?key|key|geniekey)[ \\t:=]+([^\\s\"'`<>,;\\\\]+)"),
		check: func(s string) bool { return !placeholder(s) },
	},
	{
		kind: "AuthorizationHeader", line: true, hints: []string{"authorization"},
		re:    regexp.MustCompile("(?i)authorization[\"'`*_\\\\]{0,4}[ \\t]{0,4}[:=][\"'`*_\\\\ \\t]{0,8}([^\\s\"'`<>,;\\\\]{12,})"),
		check: mixed,
	},
	// RFC 6750, section 2.1.
	{
		kind: "BearerToken", line: true, hints: []string{"bearer"},
		re:    regexp.MustCompile(`(?i)\bbearer[ \t]+([\w.~+/-]{12,}=*)`),
		check: mixed,
	},
	// RFC 7617, section 2: base64 of a name, a colon and a password.
	{
		kind: "BasicCredentials", line: true, hints: []string{"basic"},
		re: regexp.MustCompile(`(?i)\bbasic[ \t]+([a-z0-9+/]{8,}={0,2})`), check: userAndPassword,
	},
	// The Docker configuration that Secrets of type kubernetes.io/dockerconfigjson
	// hold: base64 of the same.
	{
		kind: "BasicCredentials", line: true, hints: []string{"auth"},
		re: regexp.MustCompile(`(?i)"auth\\?"\s{0,4}:\s{0,4}\\?"([a-z0-9+/]{8,}={0,2})\\?"`), check: userAndPassword,
	},
	// curl(1), --user.
	{
		kind: "BasicCredentials", line: true, hints: []string{"curl"},
		re:    regexp.MustCompile("(?i)\\bcurl\\b[^\\n]*?[ \\t](?:-u|--user)[ =]?[\"']?([^\\s\"'`:]+:[^\\s\"'`]+)"),
		check: password,
	},
	// RFC 6265, section 4.
	{
		kind: "Cookie", line: true, hints: []string{"cookie"},
		re: regexp.MustCompile("(?i)\\bcookie[\"'`*_\\\\]{0,4}[ \\t]{0,4}[:=][\"'`*_\\\\ \\t]{0,8}([^\\s=;,\"'`<>]+=[^\\r\\n\"'`<>]*[^\\s\"'`<>])"),
	},
	// netrc(5) of ftp and curl.
	{
		kind: "Password", line: true, hints: []string{"login"},
		re:    regexp.MustCompile(`(?i)\blogin[ \t]+\S+[ \t]+password[ \t]+(\S+)`),
		check: func(s string) bool { return !placeholder(s) },
	},
	// CREATE USER of MySQL and of Oracle.
	{
		kind: "Password", line: true, hints: []string{"identified"},
		re: regexp.MustCompile(`(?i)\bidentified[ \t]+by[ \t]+(?:password[ \t]+)?["']([^"'\n]+)`),
	},
	// sshpass(1), -p.
	{
		kind: "Password", line: true, hints: []string{"sshpass"},
		re: regexp.MustCompile(`(?i)\bsshpass[ \t]+-p[ \t]*["']?([^\s"']+)`),
	},
}

// goesOn matches where a word does not end.
var goesOn = regexp.MustCompile(`^[.~-]?\w|^-`)

var portAndPath = regexp.MustCompile(`^[^:]*:\d{1,5}/`)

// formed finds what is a secret by its form.
func formed(s, low string) []span {
	all := pem(s)
	for _, scope := range []struct {
		line  bool
		least int
		ends  *[256]bool
	}{{false, 12, charset(" \t\r\n\"'`<>")}, {true, 12, charset("\n")}} {
		for start := 0; start < len(s); start++ {
			end := start
			for end < len(s) && !scope.ends[s[end]] {
				end++
			}
			if end-start >= scope.least {
				all = append(all, formedIn(s, low, start, end, scope.line)...)
			}
			start = end
		}
	}
	return all
}

// formedIn finds the forms of a line, or of what is no line, in s[start:end].
func formedIn(s, low string, start, end int, line bool) (all []span) {
	for i, f := range forms {
		if f.line != line || !containsAny(low[start:end], f.hints) {
			continue
		}
		for _, m := range f.re.FindAllStringSubmatchIndex(s[start:end], -1) {
			p := span{start: start + m[2], end: start + m[3], kind: f.kind, rank: i + 1}
			if f.alone && goesOn.MatchString(s[p.end:min(len(s), p.end+2)]) {
				continue
			}
			if f.check == nil || f.check(s[p.start:p.end]) {
				all = append(all, p)
			}
		}
	}
	return all
}

// pem finds blocks as RFC 7468 and RFC 4880 (section 6.2) have them, also where
// line feeds are written as escapes. Of one without an end, as a text that was cut
// has it, all is masked that can be of it.
func pem(s string) (all []span) {
	const begin, dashes = "-----BEGIN ", "-----"
	ends := true
	for at := 0; ; {
		i := strings.Index(s[at:], begin)
		if i < 0 {
			return all
		}
		start := at + i
		from := start + len(begin)
		at = from
		n := strings.Index(s[from:min(len(s), from+64)], dashes)
		if n < 0 {
			continue
		}
		p := span{start: start, kind: pemBlock} // of the first rank: what is in it is part of it
		if strings.Contains(s[from:from+n], "PRIVATE KEY") {
			p.kind = privateKey
		}
		from += n + len(dashes)
		end := -1
		if ends {
			end = strings.Index(s[from:], "-----END ")
			ends = end >= 0
		}
		if end >= 0 {
			p.end = from + end + len("-----END ")
			if n := strings.Index(s[p.end:min(len(s), p.end+64)], dashes); n >= 0 {
				p.end += n + len(dashes)
			}
		} else {
			p.end = from + len(unfinished.FindString(s[from:]))
			if p.end == from {
				continue
			}
		}
		all = append(all, p)
		at = p.end
	}
}

// unfinished is what may follow the first line of a block: lines of base64 and
// headers, quoted or not.
var unfinished = regexp.MustCompile(`^(?:(?:\\r|\\n|[\s>|])+(?:[\w-]+: [^\n\\]*|[A-Za-z0-9+/=]{8,}))+`)

// password reports whether a name, a colon and a password have a password.
func password(s string) bool {
	_, secret, _ := strings.Cut(s, ":")
	return !placeholder(secret)
}

// userAndPassword reports whether s is base64 of a name, a colon and a password.
func userAndPassword(s string) bool {
	text, err := stdbase64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil || !strings.Contains(string(text), ":") {
		return false
	}
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// mixed reports whether a text has both a letter and a digit, as what is drawn at
// random has and a word of a language has not.
func mixed(s string) bool {
	return strings.ContainsAny(s, "0123456789") && strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
}

func containsAny(s string, words []string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}
