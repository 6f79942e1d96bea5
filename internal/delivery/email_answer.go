package delivery

import (
	"fmt"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
)

// enhancedCode is that of RFC 3463 at the beginning of a line.
var enhancedCode = regexp.MustCompile(`(?m)^([245]\.\d{1,3}\.\d{1,3})(?: |$)`)

func enhanced(e *textproto.Error) string {
	if found := enhancedCode.FindStringSubmatch(e.Msg); found != nil {
		return found[1]
	}
	return ""
}

// meaning says what a refusal means (RFC 5321, section 4.2; RFC 3463; RFC 4954,
// section 6). What is refused before the mail is spoken of has nothing to do with
// the message: it is for somebody to mend, and so is what a sender may not do.
func (t *transaction) meaning(e *textproto.Error) status {
	code := enhanced(e)
	switch {
	case code == "4.7.28" || code == "5.4.5": // what Gmail says of its limits
		return status{class: Transient, reason: ReasonRateLimited, advice: "too many messages"}
	case e.Code/100 == 4:
		return status{class: Transient, reason: ReasonServerError}
	case e.Code/100 != 5:
		return status{class: Permanent, reason: ReasonUnexpectedStatus}
	case t.step == stepAuth:
		return status{class: Config, reason: ReasonUnauthorized, advice: "correct username, password and mechanism"}
	case e.Code == 530 || e.Code == 534 || e.Code == 535 || e.Code == 538:
		return status{class: Config, reason: ReasonUnauthorized, advice: "give the channel the auth and the encryption that the server wants"}
	case t.step == stepStartTLS:
		return status{class: Config, reason: ReasonTLSRefused, advice: "set encryption to TLS and the port that goes with it"}
	case t.step == stepGreeting || t.step == stepHello:
		return status{class: Config, reason: ReasonForbidden, advice: "have the server take mail from this cluster, or choose another"}
	case code == "5.3.4" || code == "5.2.3" || e.Code == 552 && t.step != stepRcpt && code != "5.2.2":
		return status{class: Permanent, reason: ReasonTooLarge, advice: "the message is larger than the server takes"}
	case strings.HasPrefix(code, "5.7.") && (t.step == stepMail || t.step == stepRcpt):
		return status{class: Config, reason: ReasonForbidden, advice: "have the server let the channel send as its from to its recipients, or set auth"}
	case t.step == stepRcpt && (code == "" || strings.HasPrefix(code, "5.1.")) && (e.Code == 550 || e.Code == 551 || e.Code == 553):
		return status{class: Permanent, reason: ReasonNotFound}
	case e.Code >= 500 && e.Code <= 504 || e.Code == 555:
		return status{class: Permanent, reason: ReasonBadRequest}
	}
	return status{class: Permanent, reason: ReasonRejected}
}

// refusal makes an error of what the server said.
func (t *transaction) refusal(answer *textproto.Error) *Error {
	means := t.meaning(answer)
	e := &Error{Class: means.class, Reason: means.reason, Code: strings.TrimSpace(strconv.Itoa(answer.Code) + " " + enhanced(answer))}
	if t.complete && answer.Code/100 != 4 && answer.Code/100 != 5 {
		e.Class, e.Reason, e.MaybeDelivered = Ambiguous, ReasonMalformedAnswer, true
	}
	message := fmt.Sprintf("%s answered %s to %s", t.address, e.Code, t.step)
	if t.refused > 0 {
		message = fmt.Sprintf("%s refused %s, so that nobody was sent anything: %s", t.address, t.whom(), e.Code)
	}
	if means.advice != "" {
		message += ": " + means.advice
	}
	if words := t.words(answer.Msg); words != "" {
		message += ": " + words
	}
	e.Message = clean(message)
	return e
}

// whom names the recipient that an error is about, and how many others are refused.
func (t *transaction) whom() string {
	name := withoutAddresses(t.worst)
	if t.refused > 1 {
		return fmt.Sprintf("%s and %d more of %d recipients", name, t.refused-1, len(t.config.To)+len(t.config.Cc))
	}
	return name
}

// words returns what an answer says to a person, without secrets and addresses.
func (t *transaction) words(answer string) string {
	return clean(withoutAddresses(t.mask.hide(enhancedCode.ReplaceAllString(answer, ""))))
}

var addressPattern = regexp.MustCompile(`([A-Za-z0-9])[^\s@<>"'(),:;]*@([A-Za-z0-9-])`)

// withoutAddresses leaves of every address in the text its first letter and its
// domain: status is read by more people than a channel is.
func withoutAddresses(s string) string { return addressPattern.ReplaceAllString(s, "$1***@$2") }

// queueIDs are how servers name a mail that they have taken: Postfix, Exim,
// Sendmail, Exchange, Gmail and Amazon SES, in this order.
var queueIDs = []*regexp.Regexp{
	regexp.MustCompile(`(?i)\bqueued as ([\w.-]+)`),
	regexp.MustCompile(`(?i)\bid=([\w.-]+)`),
	regexp.MustCompile(`(?i)^(?:2\.\d+\.\d+ )?([\w.-]+) Message accepted`),
	regexp.MustCompile(`\bInternalId=(\d+)`),
	regexp.MustCompile(`^2\.0\.0 OK +\d+ ([\w.-]+) - gsmtp`),
	regexp.MustCompile(`^Ok ([0-9a-f-]{30,})$`),
}

// queueID finds the server's name for a mail in its answer, empty where there is
// none that is known.
func queueID(answer string) string {
	for _, p := range queueIDs {
		if found := p.FindStringSubmatch(answer); found != nil {
			return found[1]
		}
	}
	return ""
}
