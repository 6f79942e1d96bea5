// Command kube-apiserver is the Kubernetes API server as its Go module has it.
package main

import (
	"os"
	_ "time/tzdata" // CronJob time zones are validated on machines that have no zoneinfo

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
