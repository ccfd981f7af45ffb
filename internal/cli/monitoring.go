package cli

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/monitoring"
)

func (a *app) monitoring() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "monitoring",
		Short: "Print alert rules and scrape configuration for Prometheus, and dashboards for Grafana",
		Long: `Prints what a Prometheus and a Grafana of your own need to watch a cluster whose control planes expose metrics (spec.monitoring.exporter): plain
files, or objects of the Prometheus Operator. It changes nothing in the cluster, and connects to no host. spec.monitoring.prometheus
has quorate apply install Prometheus and Alertmanager in the cluster instead. docs/monitoring.md and docs/alerts.md say what is
exposed, and what to do about each alert.`,
	}
	cmd.AddCommand(reads(a.monitoringRules()), reads(a.monitoringScrape()), reads(a.monitoringAccess()), a.monitoringDashboards())
	return cmd
}

// For whom something is printed.
const (
	forPrometheus = "prometheus"
	forOperator   = "operator"
)

// monitoringFlags are shared by the commands that print for one or the other.
type monitoringFlags struct {
	purpose string
	monitoring.Options
}

func (f *monitoringFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.purpose, "for", forPrometheus, "prometheus: a plain file; operator: objects of the Prometheus Operator")
	f.addObjects(cmd, "the operator's objects", "Prometheus")
}

// addObjects adds the flags of objects.
func (f *monitoringFlags) addObjects(cmd *cobra.Command, what, who string) {
	cmd.Flags().StringVar(&f.Namespace, "namespace", "monitoring", "the namespace of "+what)
	cmd.Flags().StringToStringVar(&f.Labels, "label", nil, "a label of "+what+", as NAME=VALUE, if your "+who+" selects them by labels")
}

func (f *monitoringFlags) check() error {
	if f.purpose != forPrometheus && f.purpose != forOperator {
		return usageError{fmt.Errorf("--for %s is not known: use prometheus or operator", f.purpose)}
	}
	return f.checkObjects()
}

func (f *monitoringFlags) checkObjects() error {
	if why := validation.IsDNS1123Label(f.Namespace); len(why) > 0 {
		return usageError{fmt.Errorf("--namespace %q is not valid: %s", f.Namespace, strings.Join(why, ", "))}
	}
	for k, v := range f.Labels {
		if why := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(why) > 0 {
			return usageError{fmt.Errorf("--label %s=%s is not valid: %s", k, v, strings.Join(why, ", "))}
		}
	}
	return nil
}

func (a *app) monitoringRules() *cobra.Command {
	var f monitoringFlags
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Print the alert rules",
		Long: `Prints the alert rules: a file for rule_files of prometheus.yml, or with --for operator a PrometheusRule. They are the same for all
clusters. docs/alerts.md says what to do about each alert.`,
		PreRunE: func(*cobra.Command, []string) error { return f.check() },
		RunE: func(*cobra.Command, []string) error {
			if f.purpose == forOperator {
				rule, err := monitoring.PrometheusRule(f.Options)
				if err != nil {
					return err
				}
				return a.printObjects(rule)
			}
			var parsed any
			if err := yaml.Unmarshal(monitoring.RulesFile(), &parsed); err != nil {
				return err
			}
			return a.print(parsed, func(w io.Writer) error {
				_, err := w.Write(monitoring.RulesFile())
				return err
			})
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) monitoringScrape() *cobra.Command {
	var f monitoringFlags
	cmd := &cobra.Command{
		Use:   "scrape",
		Short: "Print how Prometheus scrapes the control planes",
		Long: `Prints how Prometheus scrapes the control planes of the spec: scrape_configs for prometheus.yml, or with --for operator a ServiceMonitor
with a Service and its endpoints. Print it again when control planes are added, replaced, or removed.

By default, Prometheus runs in the cluster, and uses its service account. That account must be allowed to get the nonResourceURL /metrics, which most
installations allow; otherwise, quorate monitoring access prints a role. For a Prometheus outside of the cluster, give the files with a token and
with the cluster's CA.`,
		PreRunE: func(*cobra.Command, []string) error { return f.check() },
		RunE: func(*cobra.Command, []string) error {
			c, err := a.addressed(anyManaged())
			if err != nil {
				return err
			}
			if !c.Spec.Monitoring.Exporter {
				return usageError{errors.New("the control planes expose nothing: add `monitoring: {exporter: true}` to the spec, and run `quorate apply`")}
			}
			if f.purpose == forOperator {
				return a.printObjects(monitoring.ServiceMonitor(c, f.Options)...)
			}
			return a.printObjects(monitoring.Scrape(c, f.Options))
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.TokenFile, "token-file", "", "where Prometheus has its token (default: that of its service account)")
	cmd.Flags().StringVar(&f.CAFile, "ca-file", "", "where Prometheus has the cluster's CA (default: that of its service account)")
	return cmd
}

func (a *app) monitoringDashboards() *cobra.Command {
	var f monitoringFlags
	var out string
	var object bool
	cmd := &cobra.Command{
		Use:   "dashboards [NAME...]",
		Short: "Print dashboards for Grafana",
		Long: `Prints dashboards for Grafana as JSON: quorate-overview has margins, findings, hosts, certificates, backups, drills, and versions;
quorate-etcd has the load balancers and etcd. Without NAME, it prints all of them, one document after another. They are the same for all clusters: data source
and cluster are chosen in Grafana. They show the metrics of spec.monitoring.exporter.

With --out, each is written to a file of its own in that directory, to be imported or provisioned. With --configmap, they are a ConfigMap with the
label grafana_dashboard: "1", which the sidecar of Grafana's Helm chart finds.`,
		Example: `  quorate monitoring dashboards --out dashboards
  quorate monitoring dashboards quorate-overview > overview.json
  quorate monitoring dashboards --configmap --namespace monitoring | kubectl apply -f -`,
		Args: cobra.ArbitraryArgs,
		PreRunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case object && out != "":
				return usageError{errors.New("--out writes a file for each dashboard, and --configmap prints one object: they cannot be combined")}
			case !object && (cmd.Flags().Changed("namespace") || cmd.Flags().Changed("label")):
				return usageError{errors.New("--namespace and --label are for a ConfigMap: add --configmap")}
			}
			return f.checkObjects()
		},
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := dashboardsNamed(args)
			if err != nil {
				return err
			}
			switch {
			case object:
				m, err := monitoring.DashboardsConfigMap(all, f.Options)
				if err != nil {
					return err
				}
				return a.printObjects(m)
			case out != "":
				return a.writeDashboards(all, out)
			}
			bodies := []any{}
			for _, d := range all {
				bodies = append(bodies, d.Body)
			}
			return a.print(bodies, func(w io.Writer) error {
				for _, d := range all {
					text, err := d.JSON()
					if err != nil {
						return err
					}
					if _, err := w.Write(text); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f.addObjects(cmd, "the ConfigMap", "Grafana")
	cmd.Flags().StringVar(&out, "out", "", "write each dashboard to a file in this directory")
	cmd.Flags().BoolVar(&object, "configmap", false, "print a ConfigMap for Grafana's sidecar")
	return cmd
}

// dashboardsNamed are those dashboards; without names, all.
func dashboardsNamed(names []string) ([]monitoring.Dashboard, error) {
	all := monitoring.Dashboards()
	var known []string
	for _, d := range all {
		known = append(known, d.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, usageError{fmt.Errorf("there is no dashboard %q: use %s", name, strings.Join(known, " or "))}
		}
	}
	return slices.DeleteFunc(all, func(d monitoring.Dashboard) bool { return len(names) > 0 && !slices.Contains(names, d.Name) }), nil
}

// writeDashboards writes a file for each dashboard, and prints which.
func (a *app) writeDashboards(all []monitoring.Dashboard, dir string) error {
	files := []string{}
	for _, d := range all {
		if err := a.canWrite(filepath.Join(dir, d.File())); err != nil {
			return err
		}
	}
	for _, d := range all {
		text, err := d.JSON()
		if err != nil {
			return err
		}
		path := filepath.Join(dir, d.File())
		if err := durable.Update(path, text, 0o644); err != nil {
			return fmt.Errorf("writing the dashboard to %s: %w", path, err)
		}
		files = append(files, path)
	}
	return a.print(map[string]any{"files": files}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "Wrote %s.\n", strings.Join(files, ", "))
		return err
	})
}

func (a *app) monitoringAccess() *cobra.Command {
	var account string
	who, exists := monitoring.Account{Namespace: "kube-system", Name: "quorate-metrics"}, false
	cmd := &cobra.Command{
		Use:   "access",
		Short: "Print what lets Prometheus read the metrics",
		Long: `Prints objects for kubectl apply: a role that may get the nonResourceURL /metrics, and its binding. With --service-account, they are for
that account. Otherwise, they are for an account of its own with a token that does not expire, for a Prometheus outside of the cluster.`,
		PreRunE: func(*cobra.Command, []string) error {
			if account != "" {
				var ok bool
				who.Namespace, who.Name, ok = strings.Cut(account, "/")
				if !ok || len(validation.IsDNS1123Label(who.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(who.Name)) > 0 {
					return usageError{fmt.Errorf("--service-account %q must be NAMESPACE/NAME", account)}
				}
				exists = true
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return a.printObjects(monitoring.Access(who, exists)...) },
	}
	cmd.Flags().StringVar(&account, "service-account", "", "an account that exists, as NAMESPACE/NAME")
	return cmd
}

// printObjects prints objects for kubectl, or a file of configuration.
func (a *app) printObjects(objects ...monitoring.Object) error {
	return a.print(monitoring.List(objects), func(w io.Writer) error {
		text, err := monitoring.YAML(objects...)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}
