package main

import (
	"context"
	"os"
	_ "time/tzdata" // the time zones of CronJobs: an image has no zoneinfo files

	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's authentication plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubeadmapp "k8s.io/kubernetes/cmd/kubeadm/app"
	kubeadmerrors "k8s.io/kubernetes/cmd/kubeadm/app/util/errors"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
)

func kubeAPIServer()         { os.Exit(cli.Run(apiserver.NewAPIServerCommand())) }
func kubeControllerManager() { os.Exit(cli.Run(controllermanager.NewControllerManagerCommand())) }
func kubeScheduler()         { os.Exit(cli.Run(scheduler.NewSchedulerCommand())) }
func kubeProxy()             { os.Exit(cli.Run(proxy.NewProxyCommand())) }
func kubelet()               { os.Exit(cli.Run(kubeletapp.NewKubeletCommand(context.Background()))) }

// kubeadm returns its error instead of printing it.
func kubeadm() { kubeadmerrors.HandleError(kubeadmapp.Run()) }

func kubectl() {
	// The verbosity counts while the command is still being put together, before its flags are parsed.
	_, _ = logs.GlogSetter(kubectlcmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}
