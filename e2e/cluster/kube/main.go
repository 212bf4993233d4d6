// Command kube is every component of a test cluster in one binary, told apart by the name it is called by
// (links: kube-apiserver, kubelet, kubectl, ...).
//
// Kubernetes publishes no Go-installable binaries, and seven separate builds would link the same packages seven times:
// one binary takes a seventh of the link time and of the disk.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	var cmd *cobra.Command
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		cmd = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		cmd = controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		cmd = scheduler.NewSchedulerCommand()
	case "kube-proxy":
		cmd = proxy.NewProxyCommand()
	case "kubelet":
		cmd = kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		cmd = kubectl.NewDefaultKubectlCommand()
	case "etcd":
		// etcd parses its own arguments and never returns an exit code of cobra's.
		etcdmain.Main(os.Args)
		return
	default:
		fmt.Fprintf(os.Stderr, "kube: %q is no component: link this file as kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl or etcd, and call the link\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(cmd))
}
