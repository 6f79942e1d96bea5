// Package redacttest has secrets to plant in tests: valid by their form, and of
// nobody. They are put together when a test runs, so that no scanner of source
// code finds one here.
package redacttest

import (
	stdbase64 "encoding/base64"
	"strings"
)

// Planted is a secret as it stands in a text.
type Planted struct {
	// Kind is what it has to be masked as.
	Kind string
	// Text is the secret with what it is known by.
	Text string
	// Secret must be found nowhere, and is in no other Planted.
	Secret string
}

// All returns at least one secret of each kind.
func All() []Planted {
	user := func(password string) string {
		return stdbase64.StdEncoding.EncodeToString([]byte("operator:" + password))
	}
	var all []Planted
	add := func(kind, before, secret, after string) {
		all = append(all, Planted{Kind: kind, Text: before + secret + after, Secret: secret})
	}
	issued := func(kind, prefix, secret string) { add(kind, "", prefix+secret, "") }
	issued("GitHubToken", "ghp"+"_", letters(36, 1))
	issued("GitHubToken", "github"+"_pat_", letters(22, 2)+"_"+letters(59, 3))
	issued("GitLabToken", "glp"+"at-", letters(20, 4))
	issued("SlackToken", "xox"+"b-", "24984754863-"+letters(24, 5))
	issued("AWSAccessKey", "AK"+"IA", strings.ToUpper(words(16, 6)))
	issued("GoogleAPIKey", "AI"+"za", letters(35, 7))
	issued("GoogleOAuthToken", "ya29"+".", letters(60, 8))
	issued("AlibabaAccessKey", "LT"+"AI", letters(20, 9))
	issued("DigitalOceanToken", "dop"+"_v1_", hex(64, 10))
	issued("VaultToken", "hv"+"s.", letters(24, 11))
	issued("NPMToken", "np"+"m_", letters(36, 12))
	issued("PyPIToken", "py"+"pi-AgE", letters(60, 13))
	issued("RubyGemsToken", "ruby"+"gems_", hex(48, 14))
	issued("DockerToken", "dckr"+"_pat_", letters(27, 15))
	issued("StripeKey", "sk"+"_live_", letters(24, 16))
	issued("WebhookSecret", "wh"+"sec_", letters(32, 17))
	issued("SendGridKey", "S"+"G.", letters(22, 18)+"."+letters(43, 19))
	issued("OpenAIKey", "sk"+"-proj-", letters(48, 20))
	issued("AnthropicKey", "sk"+"-ant-", "api03-"+letters(48, 21))
	issued("HuggingFaceToken", "h"+"f_", letters(34, 22))
	issued("GrafanaToken", "gl"+"sa_", letters(32, 23)+"_"+hex(8, 24))
	issued("NewRelicKey", "NR"+"AK-", letters(27, 25))
	issued("SentryToken", "sntr"+"ys_", letters(60, 26))
	issued("DatabricksToken", "da"+"pi", hex(32, 27))
	issued("AtlassianToken", "ATA"+"TT3", letters(80, 28))
	issued("ShopifyToken", "shp"+"at_", hex(32, 29))
	issued("TailscaleKey", "tsk"+"ey-auth-", letters(17, 30)+"-"+letters(20, 31))
	issued("LinearKey", "lin"+"_api_", letters(40, 32))
	issued("OnePasswordToken", "op"+"s_eyJ", letters(60, 33))
	issued("AgeSecretKey", "AGE-SECRET"+"-KEY-1", strings.Repeat("QPZRY9X8GF2TV", 5)[:58])
	issued("JWT", "ey"+"J", letters(20, 34)+".eyJ"+letters(40, 35)+"."+letters(43, 36))
	issued("PasswordHash", "$2"+"y$10$", letters(53, 37))

	add("URLCredentials", "postgres://shop:", letters(12, 38), "@db.example.com:5432/shop?sslmode=require")
	add("URLCredentials", "amqp://mq:", letters(6, 39)+"/"+letters(6, 40), "@mq.example.com/")
	add("URLParameter", "https://files.example.com/report.csv?X-Amz-Expires=300&X-Amz-Signature=", hex(64, 41), "&x=1")
	add("SlackWebhook", "https://hooks.slack"+".com/services/", "T0"+letters(9, 42)+"/B0"+letters(9, 43)+"/"+letters(24, 44), "")
	add("DiscordWebhook", "https://discord"+".com/api/webhooks/", "1234567890123456789/"+letters(68, 45), "")
	add("TeamsWebhook", "https://contoso.webhook"+".office.com/webhookb2/", hex(32, 46)+"/IncomingWebhook/"+hex(32, 47), "")
	add("TeamsWebhook", "https://prod-1.westeurope.logic.azure"+".com:443/workflows/1/triggers/manual/paths/invoke?api-version=1&sig=", letters(43, 48), "")
	add("GoogleChatWebhook", "https://chat.googleapis"+".com/v1/spaces/AAAA/messages?", "key="+letters(20, 49)+"&token="+letters(43, 50), "")
	add("WebhookURL", "https://chat.example.com/hooks/", words(26, 51), "")
	add("PagerDutyKey", "https://events.pagerduty"+".com/integration/", hex(32, 52), "/enqueue")
	add("PagerDutyKey", `{"routing_key": "`, hex(32, 76), `"}`)
	add("PEMBlock", "tls.key: ", stdbase64.StdEncoding.EncodeToString([]byte("-----BEGIN"+" PRIVATE KEY-----\n"+letters(64, 77))), "")
	add("BasicCredentials", ".dockerconfigjson: ", stdbase64.StdEncoding.EncodeToString([]byte(`{"auths":{"r":{"auth":"`+letters(24, 78)+`"}}}`)), "")
	add("TelegramBotToken", "https://api.telegram"+".org/bot", "123456789:AA"+letters(33, 53), "/getMe")
	add("DiscordBotToken", "", "M"+letters(23, 54)+"."+letters(6, 55)+"."+letters(38, 56), "")
	add("BootstrapToken", "kubeadm join 10.0.0.1:6443 --discovery "+"", words(6, 57)+"."+words(16, 58), "")
	add("AzureClientSecret", "", letters(3, 59)+"8"+"Q~"+letters(34, 60), "")
	add("AuthorizationHeader", "Authorization: Token ", letters(20, 61), "")
	add("AuthorizationHeader", "Authorization: Digest ", `username=op, response=`+hex(32, 62), "")
	add("BearerToken", "curl -H 'X: Bearer ", letters(24, 63), "'")
	add("BasicCredentials", "Basic ", user(letters(12, 64)), "")
	add("BasicCredentials", `{"auths":{"registry.example.com":{"auth":"`, user(letters(12, 65)), `"}}}`)
	add("BasicCredentials", "curl -sS -u ", "op:"+letters(12, 66), " https://example.com")
	add("Cookie", "Set-Cookie: ", "session="+letters(24, 67)+"; Path=/", "")
	add("Password", "password: ", "hunter2"+letters(4, 68), "")
	add("Secret", "client_secret=", letters(32, 69), "")
	add("Credentials", "credentials: ", letters(32, 70), "")
	add("Token", "X-Auth-Token: ", letters(32, 71), "")
	add("SecretKey", "aws_secret_access_key = ", letters(20, 72)+"/"+letters(19, 73), "")
	block := strings.Repeat(letters(64, 74)+"\n", 3)
	add("PrivateKey", "", "-----BEGIN RSA"+" PRIVATE KEY-----\n"+block+"-----END RSA PRIVATE KEY-----", "")
	add("PEMBlock", "", "-----BEGIN CERTIFI"+"CATE-----\n"+strings.Repeat(letters(64, 75)+"\n", 3)+"-----END CERTIFICATE-----", "")
	return all
}

// letters returns n letters and digits that are the same for each n and seed. The
// last and the first are a letter and a digit.
func letters(n int, seed uint64) string {
	return draw("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", n, seed)
}

// words is the same in lower case.
func words(n int, seed uint64) string { return draw("abcdefghijklmnopqrstuvwxyz234567", n, seed) }

func hex(n int, seed uint64) string { return draw("0123456789abcdef", n, seed) }

// draw is the generator MINSTD, so that a failed test fails again.
func draw(alphabet string, n int, seed uint64) string {
	b := make([]byte, n)
	state := seed*2654435761%2147483647 + 1
	for i := range b {
		state = state * 48271 % 2147483647
		b[i] = alphabet[state%uint64(len(alphabet))]
	}
	if n > 2 {
		b[0], b[n-1] = 'b', '7'
	}
	return string(b)
}
