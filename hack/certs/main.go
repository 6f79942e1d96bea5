// Command certs prints the Secret datastorage-tls for a cluster without
// cert-manager: a certificate for DataStorage and that of the authority which
// signed it. The authority's key is thrown away, so nobody can sign another, and
// renewing means running this again:
//
//	go run ./hack/certs | kubectl apply --server-side -f -
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, time.Now()); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "certs:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer, now time.Time) error {
	flags := flag.NewFlagSet("certs", flag.ContinueOnError)
	namespace := flags.String("namespace", "notification-system", "`namespace` that DataStorage runs in")
	more := flags.String("hosts", "", "`names` and IP addresses, separated by commas, that DataStorage is reached by besides those of its Service")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no flag; certs takes -namespace and -hosts only", flags.Arg(0))
	}
	if *namespace == "" {
		return errors.New("-namespace is empty; it must name the namespace that DataStorage runs in")
	}
	service := "datastorage." + *namespace + ".svc"
	hosts := []string{"datastorage", service, service + ".cluster.local"}
	for host := range strings.SplitSeq(*more, ",") {
		if host = strings.TrimSpace(host); host != "" {
			hosts = append(hosts, host)
		}
	}
	data, err := certificates(hosts, now)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"type":       "kubernetes.io/tls",
		"metadata":   map[string]string{"name": "datastorage-tls", "namespace": *namespace},
		"data":       data,
	})
}
