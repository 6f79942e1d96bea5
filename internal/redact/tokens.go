package redact

import "strings"

// token is a credential that its issuer lets begin with a prefix of its own, so
// that it can be told from all else by its form.
type token struct {
	kind   string
	prefix string
	// chars may follow the prefix, from least to most of them; 0 is no limit.
	chars       *[256]bool
	least, most int
	// check has the last word about what follows the prefix, where it is set.
	check func(string) bool
}

var (
	digits = charset("0123456789")
	hex    = charset("0123456789abcdef")
	alnum  = charset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	word   = extend(alnum, "_-")
	dotted = extend(word, ".")
	base64 = extend(alnum, "+/=_-")
	base32 = charset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
	crypt  = extend(alnum, "./$,=+")
	bech32 = charset("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")
)

// tokens has each issuer's prefixes with the page that says so. Where a page says
// nothing of a length, it is what the issuer's tokens have at least.
var tokens = []token{
	// github.blog/changelog/2021-03-31-authentication-token-format-updates-are-generally-available;
	// docs.github.com, "About authentication to GitHub", token formats.
	{kind: "GitHubToken", prefix: "ghp_", chars: word, least: 30},
	{kind: "GitHubToken", prefix: "gho_", chars: word, least: 30},
	{kind: "GitHubToken", prefix: "ghu_", chars: word, least: 30},
	{kind: "GitHubToken", prefix: "ghs_", chars: dotted, least: 30},
	{kind: "GitHubToken", prefix: "ghr_", chars: word, least: 30},
	{kind: "GitHubToken", prefix: "github_pat_", chars: word, least: 30},
	// docs.gitlab.com/security/tokens, "Token prefixes".
	{kind: "GitLabToken", prefix: "glpat-", chars: dotted, least: 20},
	{kind: "GitLabToken", prefix: "gloas-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "gldt-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "glrt-", chars: dotted, least: 20},
	{kind: "GitLabToken", prefix: "glrtr-", chars: dotted, least: 20},
	{kind: "GitLabToken", prefix: "glcbt-", chars: dotted, least: 20},
	{kind: "GitLabToken", prefix: "glptt-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "glft-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "glimt-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "glagent-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "glsoat-", chars: word, least: 20},
	{kind: "GitLabToken", prefix: "GR1348941", chars: word, least: 20},
	// docs.slack.dev/authentication/tokens.
	{kind: "SlackToken", prefix: "xoxb-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxp-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxa-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxc-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxd-", chars: extend(word, "%+/="), least: 10},
	{kind: "SlackToken", prefix: "xoxr-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxs-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxe-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxe.xoxp-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xoxe.xoxb-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xapp-", chars: word, least: 10},
	{kind: "SlackToken", prefix: "xwfp-", chars: word, least: 10},
	// docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html, "Unique
	// identifiers". The ID alone opens nothing, but says whose key it is.
	{kind: "AWSAccessKey", prefix: "AKIA", chars: alnum, least: 16, most: 16, check: in(base32)},
	{kind: "AWSAccessKey", prefix: "ASIA", chars: alnum, least: 16, most: 16, check: in(base32)},
	{kind: "AWSAccessKey", prefix: "ABIA", chars: alnum, least: 16, most: 16, check: in(base32)},
	{kind: "AWSAccessKey", prefix: "ACCA", chars: alnum, least: 16, most: 16, check: in(base32)},
	// cloud.google.com/docs/authentication/api-keys.
	{kind: "GoogleAPIKey", prefix: "AIza", chars: word, least: 35, most: 35},
	// developers.google.com/identity/protocols/oauth2.
	{kind: "GoogleOAuthToken", prefix: "ya29.", chars: dotted, least: 20},
	{kind: "GoogleOAuthToken", prefix: "GOCSPX-", chars: word, least: 28},
	{kind: "GoogleOAuthToken", prefix: "1//0", chars: word, least: 30},
	// www.alibabacloud.com/help/en/ram/user-guide/create-an-accesskey-pair.
	{kind: "AlibabaAccessKey", prefix: "LTAI", chars: alnum, least: 12, most: 26},
	// docs.digitalocean.com/reference/api/create-personal-access-token.
	{kind: "DigitalOceanToken", prefix: "dop_v1_", chars: hex, least: 64, most: 64},
	{kind: "DigitalOceanToken", prefix: "doo_v1_", chars: hex, least: 64, most: 64},
	{kind: "DigitalOceanToken", prefix: "dor_v1_", chars: hex, least: 64, most: 64},
	// developer.hashicorp.com/vault/docs/concepts/tokens, "Token prefixes".
	{kind: "VaultToken", prefix: "hvs.", chars: word, least: 20},
	{kind: "VaultToken", prefix: "hvb.", chars: word, least: 20},
	{kind: "VaultToken", prefix: "hvr.", chars: word, least: 20},
	// docs.npmjs.com/about-access-tokens;
	// github.blog/2021-09-23-announcing-npms-new-access-token-format.
	{kind: "NPMToken", prefix: "npm_", chars: alnum, least: 36, most: 36},
	// pypi.org/help, "API tokens": a macaroon for pypi.org in base64.
	{kind: "PyPIToken", prefix: "pypi-AgE", chars: word, least: 40},
	// guides.rubygems.org/api-key-scopes.
	{kind: "RubyGemsToken", prefix: "rubygems_", chars: hex, least: 48, most: 48},
	// docs.docker.com/security/access-tokens.
	{kind: "DockerToken", prefix: "dckr_pat_", chars: word, least: 20},
	{kind: "DockerToken", prefix: "dckr_oat_", chars: word, least: 20},
	// docs.stripe.com/keys; docs.stripe.com/webhooks/signature.
	{kind: "StripeKey", prefix: "sk_live_", chars: alnum, least: 16},
	{kind: "StripeKey", prefix: "sk_test_", chars: alnum, least: 16},
	{kind: "StripeKey", prefix: "rk_live_", chars: alnum, least: 16},
	{kind: "StripeKey", prefix: "rk_test_", chars: alnum, least: 16},
	// The specification of Standard Webhooks, "Signature scheme"; Stripe's begin alike.
	{kind: "WebhookSecret", prefix: "whsec_", chars: base64, least: 24},
	{kind: "WebhookSecret", prefix: "whsk_", chars: base64, least: 24},
	// www.twilio.com/docs/sendgrid/ui/account-and-settings/api-keys.
	{kind: "SendGridKey", prefix: "SG.", chars: dotted, least: 60, check: func(s string) bool { return strings.Count(strings.TrimRight(s, "."), ".") == 1 }},
	// platform.openai.com/docs/api-reference/authentication.
	{kind: "OpenAIKey", prefix: "sk-proj-", chars: word, least: 30},
	{kind: "OpenAIKey", prefix: "sk-svcacct-", chars: word, least: 30},
	{kind: "OpenAIKey", prefix: "sk-admin-", chars: word, least: 30},
	{kind: "OpenAIKey", prefix: "sk-", chars: alnum, least: 32},
	// docs.anthropic.com/en/api/overview, "Authentication".
	{kind: "AnthropicKey", prefix: "sk-ant-", chars: word, least: 30},
	// huggingface.co/docs/hub/security-tokens.
	{kind: "HuggingFaceToken", prefix: "hf_", chars: alnum, least: 30},
	// grafana.com/docs/grafana/latest/administration/service-accounts.
	{kind: "GrafanaToken", prefix: "glsa_", chars: word, least: 32},
	{kind: "GrafanaToken", prefix: "glc_", chars: base64, least: 32},
	// docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys.
	{kind: "NewRelicKey", prefix: "NRAK-", chars: alnum, least: 27, most: 27},
	// docs.sentry.io/account/auth-tokens.
	{kind: "SentryToken", prefix: "sntrys_", chars: base64, least: 40},
	{kind: "SentryToken", prefix: "sntryu_", chars: alnum, least: 40},
	// docs.databricks.com/dev-tools/auth/pat.html.
	{kind: "DatabricksToken", prefix: "dapi", chars: extend(hex, "-"), least: 32, most: 34},
	// support.atlassian.com/atlassian-account/docs/manage-api-tokens-for-your-atlassian-account.
	{kind: "AtlassianToken", prefix: "ATATT3", chars: base64, least: 60},
	{kind: "AtlassianToken", prefix: "ATCTT3", chars: base64, least: 60},
	// shopify.dev/docs/apps/build/authentication-authorization.
	{kind: "ShopifyToken", prefix: "shpat_", chars: alnum, least: 32, most: 32},
	{kind: "ShopifyToken", prefix: "shpss_", chars: alnum, least: 32, most: 32},
	{kind: "ShopifyToken", prefix: "shpca_", chars: alnum, least: 32, most: 32},
	{kind: "ShopifyToken", prefix: "shppa_", chars: alnum, least: 32, most: 32},
	// tailscale.com/kb/1277/key-prefixes.
	{kind: "TailscaleKey", prefix: "tskey-", chars: word, least: 20},
	// linear.app/developers/graphql, "Personal API keys".
	{kind: "LinearKey", prefix: "lin_api_", chars: alnum, least: 32},
	// developer.1password.com/docs/service-accounts.
	{kind: "OnePasswordToken", prefix: "ops_eyJ", chars: base64, least: 40},
	// The specification age-encryption.org/v1: Bech32 with this prefix.
	{kind: "AgeSecretKey", prefix: "AGE-SECRET-KEY-1", chars: bech32, least: 58, most: 58},
	// RFC 7519 and RFC 7516: a header that is a JSON object, in base64url, and two or
	// four parts more. Tokens of Kubernetes service accounts are of this form.
	{kind: "JWT", prefix: "eyJ", chars: dotted, least: 30, check: func(s string) bool {
		head, rest, _ := strings.Cut(s, ".")
		return len(head) >= 10 && strings.Contains(rest, ".")
	}},
	// The data of Secrets and of kubeconfig files: a PEM block, and a Docker
	// configuration (kubernetes.io/docs/concepts/configuration/secret), in base64.
	{kind: pemBlock, prefix: "LS0tLS1CRUdJTi", chars: base64, least: 40},
	{kind: "BasicCredentials", prefix: "eyJhdXRocyI", chars: base64, least: 20},
	// crypt(5) of libxcrypt, and the PHC string format: what a password can be
	// guessed from at leisure.
	{kind: "PasswordHash", prefix: "$2a$", chars: crypt, least: 56},
	{kind: "PasswordHash", prefix: "$2b$", chars: crypt, least: 56},
	{kind: "PasswordHash", prefix: "$2y$", chars: crypt, least: 56},
	{kind: "PasswordHash", prefix: "$y$", chars: crypt, least: 40},
	{kind: "PasswordHash", prefix: "$1$", chars: crypt, least: 24},
	{kind: "PasswordHash", prefix: "$apr1$", chars: crypt, least: 24},
	{kind: "PasswordHash", prefix: "$5$", chars: crypt, least: 43},
	{kind: "PasswordHash", prefix: "$6$", chars: crypt, least: 86},
	{kind: "PasswordHash", prefix: "$argon2", chars: crypt, least: 40},
}

// issued finds what issuers mark as theirs.
func issued(s string) (all []span) {
	for _, t := range tokens {
		for at := 0; ; {
			i := strings.Index(s[at:], t.prefix)
			if i < 0 {
				break
			}
			start := at + i
			from := start + len(t.prefix)
			at = from
			if start > 0 && alnum[s[start-1]] {
				continue // within a word
			}
			end := from
			for end < len(s) && t.chars[s[end]] && (t.most == 0 || end-from <= t.most) {
				end++
			}
			n := end - from
			if n >= t.least && (t.most == 0 || n <= t.most) && (t.check == nil || t.check(s[from:end])) {
				secret := strings.TrimRight(s[from:end], ".,") // which end a sentence
				all = append(all, span{start: start, end: from + len(secret), kind: t.kind})
			}
			if t.most == 0 {
				at = end // once, so that the time is linear
			}
		}
	}
	return all
}

func charset(chars string) *[256]bool { return extend(&[256]bool{}, chars) }

func extend(set *[256]bool, chars string) *[256]bool {
	extended := *set
	for i := range len(chars) {
		extended[chars[i]] = true
	}
	return &extended
}

// in reports whether a text has no other characters than those of a set.
func in(set *[256]bool) func(string) bool {
	return func(s string) bool {
		for i := range len(s) {
			if !set[s[i]] {
				return false
			}
		}
		return true
	}
}
