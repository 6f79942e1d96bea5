package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Class says what a failed attempt means for the next one.
type Class string

const (
	// Transient errors pass: try again later.
	Transient Class = "Transient"
	// Permanent errors do not: the channel has refused this message.
	Permanent Class = "Permanent"
	// Config errors last until someone changes the channel, its Secret or what
	// surrounds it. The message itself is good.
	Config Class = "Config"
	// Ambiguous attempts wrote to the channel and never heard its answer. The
	// message may or may not have been delivered.
	Ambiguous Class = "Ambiguous"
)

// Reasons are few and fixed, so that they can be metric labels.
const (
	ReasonUnknown           = "Unknown"
	ReasonTimeout           = "Timeout"
	ReasonCancelled         = "Cancelled"
	ReasonDNSFailed         = "DNSFailed"
	ReasonConnectionRefused = "ConnectionRefused"
	ReasonConnectionReset   = "ConnectionReset"
	ReasonUnreachable       = "Unreachable"
	ReasonNoAnswer          = "NoAnswer"
	ReasonMalformedAnswer   = "MalformedAnswer"

	ReasonTLSFailed          = "TLSFailed"
	ReasonTLSRefused         = "TLSRefused"
	ReasonUnknownAuthority   = "UnknownAuthority"
	ReasonCertificateInvalid = "CertificateInvalid"
	ReasonAddressNotAllowed  = "AddressNotAllowed"
	ReasonPlainHTTP          = "PlainHTTP"
	ReasonPlainText          = "PlainText"
	ReasonProxyFailed        = "ProxyFailed"
	ReasonProxyRefused       = "ProxyRefused"
	ReasonProxyUnauthorized  = "ProxyUnauthorized"

	ReasonRedirected       = "Redirected"
	ReasonBadRequest       = "BadRequest"
	ReasonUnauthorized     = "Unauthorized"
	ReasonForbidden        = "Forbidden"
	ReasonNotFound         = "NotFound"
	ReasonRequestTimeout   = "RequestTimeout"
	ReasonConflict         = "Conflict"
	ReasonGone             = "Gone"
	ReasonTooLarge         = "TooLarge"
	ReasonUnprocessable    = "Unprocessable"
	ReasonTooEarly         = "TooEarly"
	ReasonRateLimited      = "RateLimited"
	ReasonRejected         = "Rejected"
	ReasonCannotFollow     = "CannotFollow"
	ReasonServerError      = "ServerError"
	ReasonUnexpectedStatus = "UnexpectedStatus"

	ReasonInvalidURL     = "InvalidURL"
	ReasonInvalidHeader  = "InvalidHeader"
	ReasonInvalidTLS     = "InvalidTLS"
	ReasonInvalidProxy   = "InvalidProxy"
	ReasonInvalidSecret  = "InvalidSecret"
	ReasonInvalidMessage = "InvalidMessage"

	ReasonDirectoryUnavailable = "DirectoryUnavailable"
	ReasonPermissionDenied     = "PermissionDenied"
	ReasonContentConflict      = "ContentConflict"
	ReasonDiskFull             = "DiskFull"
	ReasonWriteFailed          = "WriteFailed"
)

// Error is the outcome of an attempt that did not succeed. All of it may be
// shown: no member holds a secret, and neither does the text of Err.
type Error struct {
	Class  Class
	Reason string // one of the constants above
	Code   string // the channel's own code, such as "503"; may be empty

	// Message is for people: one line of at most 256 bytes.
	Message string

	// RetryAfter is how long the channel asked to be left alone, at most a day.
	RetryAfter time.Duration

	// MaybeDelivered says that the channel may have acted on the message all
	// the same: of every ambiguous attempt, and of answers such as 502 or 504
	// that someone on the way may have given in the receiver's name.
	MaybeDelivered bool

	// CannotFollow says that the channel refused nothing but that the message follows
	// another: by itself it can be sent. It was not delivered.
	CannotFollow bool

	Err error // the cause where it is worth testing with errors.Is; may be nil
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Classify returns the *Error within err, or makes one. What nobody knows is
// transient. It returns nil for nil.
func Classify(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := causeOf(err)
	if e.Reason == ReasonUnknown {
		// The text of a stranger's error often quotes the URL it failed on.
		e.Message = clean(withoutURLs(err.Error()))
	}
	return e
}

func configError(reason, message string) *Error {
	return &Error{Class: Config, Reason: reason, Message: clean(message)}
}

// causeOf classifies an error of the network, the TLS layer or a context as if
// nothing had been written. Its phrases leave out what errors of the net package
// add, such as local ports: the same failure has to read the same each time.
func causeOf(err error) *Error {
	transient := func(reason, phrase string, cause error) *Error {
		return &Error{Class: Transient, Reason: reason, Message: phrase, Err: cause}
	}
	if e := tlsCause(err); e != nil {
		return e
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return transient(ReasonDNSFailed, "no such host", nil)
		}
		return transient(ReasonDNSFailed, "name lookup failed", nil)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return transient(ReasonTimeout, "timed out", context.DeadlineExceeded)
	}
	for _, c := range []struct {
		target error
		reason string
		phrase string
	}{
		{context.DeadlineExceeded, ReasonTimeout, "timed out"},
		{context.Canceled, ReasonCancelled, "cancelled"},
		{syscall.ECONNREFUSED, ReasonConnectionRefused, "connection refused"},
		{syscall.EHOSTUNREACH, ReasonUnreachable, "no route to host"},
		{syscall.ENETUNREACH, ReasonUnreachable, "network unreachable"},
		{syscall.EADDRNOTAVAIL, ReasonUnreachable, "no local address available"},
		{syscall.ECONNRESET, ReasonConnectionReset, "connection reset"},
		{syscall.EPIPE, ReasonConnectionReset, "connection closed by the other side"},
		{io.EOF, ReasonConnectionReset, "connection closed by the other side"},
		{io.ErrUnexpectedEOF, ReasonConnectionReset, "connection closed by the other side"},
		{net.ErrClosed, ReasonConnectionReset, "connection closed"},
	} {
		if errors.Is(err, c.target) {
			return transient(c.reason, c.phrase, c.target)
		}
	}
	if strings.Contains(err.Error(), idleClose) {
		return transient(ReasonConnectionReset, "connection closed by the other side", io.EOF)
	}
	return transient(ReasonUnknown, "unknown error", nil)
}

// idleClose is the text of the one such error that net/http does not export.
const idleClose = "server closed idle connection"

// refusals are the TLS alerts with which a server turns a client away for what
// it is or presents. The other alerts can be the server's own passing trouble.
var refusals = []string{
	"tls: handshake failure", "tls: bad certificate", "tls: unsupported certificate",
	"tls: revoked certificate", "tls: expired certificate", "tls: unknown certificate",
	"tls: unknown certificate authority", "tls: access denied", "tls: certificate required",
	"tls: protocol version not supported", "tls: insufficient security level",
}

func tlsCause(err error) *Error {
	fail := func(reason, phrase string) *Error {
		return &Error{Class: Config, Reason: reason, Message: clean(phrase)}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fail(ReasonUnknownAuthority, "certificate signed by an unknown authority: set the channel's CA")
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return fail(ReasonCertificateInvalid, "certificate is not valid for "+host.Host)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return fail(ReasonCertificateInvalid, "certificate has expired or is not yet valid")
		}
		return fail(ReasonCertificateInvalid, "certificate is not valid for a server")
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fail(ReasonCertificateInvalid, "certificate cannot be verified")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fail(ReasonTLSFailed, "the other side does not speak TLS")
	}
	// The alert may sit in an error of the proxy's connection, of the same type.
	for {
		op, ok := errors.AsType[*net.OpError](err)
		if !ok {
			return nil
		}
		if op.Op == "remote error" {
			alert := op.Err.Error()
			if slices.Contains(refusals, alert) {
				return fail(ReasonTLSRefused, "TLS refused by the other side: "+alert)
			}
			e := fail(ReasonTLSFailed, "TLS failed on the other side: "+alert)
			e.Class = Transient
			return e
		}
		err = op.Err
	}
}
