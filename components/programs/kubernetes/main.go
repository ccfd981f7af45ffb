// Command kubernetes is every Kubernetes and etcd program of a cluster in one file. It is the
// program that it is called as: one binary means one image layer, and one copy of what they share.
//
// Called by its own name it takes the program as its first argument: `kubernetes kubectl get nodes`.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	_ "components.quorate.dev/kubernetes/translations"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// programs are all that this binary can be. Each ends the process itself or returns after success.
var programs = map[string]func(){
	"agnhost":                 agnhost,
	"etcd":                    etcd,
	"etcdctl":                 etcdctl,
	"etcdutl":                 etcdutl,
	"kube-apiserver":          kubeAPIServer,
	"kube-controller-manager": kubeControllerManager,
	"kube-proxy":              kubeProxy,
	"kube-scheduler":          kubeScheduler,
	"kubeadm":                 kubeadm,
	"kubectl":                 kubectl,
	"kubelet":                 kubelet,
}

// plain are the programs that have no kubelet or API server in them upstream. Packages of these register flags for the whole process: --version,
// and those of cAdvisor. A plain program would accept them as its own, and agnhost could not print its version.
var plain = []string{"agnhost", "etcdctl", "etcdutl", "kubeadm"}

func main() {
	name := filepath.Base(os.Args[0])
	if _, ok := programs[name]; !ok && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = filepath.Base(os.Args[0])
	}
	run, ok := programs[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no program %q in this binary; it contains: %s\n", name, strings.Join(names(), " "))
		os.Exit(2)
	}
	// The etcd tools switch this on for the whole process when they are linked in. Elsewhere it would
	// turn a mistyped kubectl or kubeadm command into another command that happens to begin so.
	cobra.EnablePrefixMatching = strings.HasPrefix(name, "etcd")
	if slices.Contains(plain, name) {
		flag.CommandLine = flag.NewFlagSet(name, flag.ExitOnError)
		pflag.CommandLine = pflag.NewFlagSet(name, pflag.ExitOnError)
	}
	run()
}

func names() []string {
	var all []string
	for name := range programs {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
