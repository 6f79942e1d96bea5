package manager

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/acknowledge"
	"kubernaut.ai/notification/internal/controller"
)

// acknowledgeOptions are the settings of the server behind the acknowledge links,
// which is off where they are empty.
type acknowledgeOptions struct {
	URL         string
	BindAddress string
	CertDir     string
	KeyFile     string
}

func (o *acknowledgeOptions) bindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.URL, "acknowledge-url", "", "public `address` that acknowledge links begin with, https://host; messages carry none where empty")
	fs.StringVar(&o.BindAddress, "acknowledge-bind-address", "", "`address` of the pages behind acknowledge links")
	fs.StringVar(&o.CertDir, "acknowledge-cert-dir", "", "`directory` with tls.crt and tls.key for these pages, read again when they change; plain HTTP without it, on a loopback address only")
	fs.StringVar(&o.KeyFile, "acknowledge-key-file", "", "`file` with the key that acknowledge links are signed with, at least 32 bytes; older keys, one a line, may follow and are good for the links they signed")
}

func (o *acknowledgeOptions) validate() error {
	if *o == (acknowledgeOptions{}) {
		return nil
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, f := range []struct{ name, value string }{
		{"acknowledge-url", o.URL}, {"acknowledge-bind-address", o.BindAddress}, {"acknowledge-key-file", o.KeyFile},
	} {
		if f.value == "" {
			bad("--%s is empty; --acknowledge-url, --acknowledge-bind-address and --acknowledge-key-file go together", f.name)
		}
	}
	if o.URL != "" {
		if err := acknowledge.CheckURL(o.URL); err != nil {
			bad("--acknowledge-url %w", err)
		}
	}
	if _, _, err := net.SplitHostPort(o.BindAddress); err != nil && o.BindAddress != "" {
		bad("--acknowledge-bind-address is %q; it must be host:port", o.BindAddress)
	}
	if o.CertDir == "" && o.BindAddress != "" && !loopback(o.BindAddress) {
		bad("--acknowledge-cert-dir is empty and --acknowledge-bind-address is %s; without a certificate the links would cross the network in the clear, so that is for a loopback address only", o.BindAddress)
	}
	return errors.Join(errs...)
}

// setupAcknowledge has messages carry acknowledge links, and every replica serve
// the pages behind them, where the options ask for it.
func setupAcknowledge(mgr ctrl.Manager, o acknowledgeOptions, requests *controller.NotificationRequestReconciler, log logr.Logger) error {
	if o.URL == "" {
		return nil
	}
	links, err := acknowledge.NewLinks(o.URL, o.KeyFile)
	if err != nil {
		return fmt.Errorf("set up --acknowledge-url and --acknowledge-key-file: %w", err)
	}
	requests.AcknowledgeLink = func(nr *v1alpha1.NotificationRequest, channel string, until time.Time) string {
		return links.URL(acknowledge.Claims{Namespace: nr.Namespace, Name: nr.Name, UID: string(nr.UID), Channel: channel, Expires: until})
	}
	return mgr.Add(acknowledge.NewServer(acknowledge.Options{
		Address: o.BindAddress, CertDir: o.CertDir, Links: links,
		Requests: mgr.GetAPIReader(), Writer: mgr.GetClient(), Subject: requests.AskedSubject,
		Log: log.WithName("acknowledge"), Registry: metrics.Registry,
	}))
}
