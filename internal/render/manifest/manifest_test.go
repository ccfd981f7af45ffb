package manifest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"quorate.dev/quorate/internal/spec"
)

// TestFlannelInstallsItsConfiguration holds both kinds of images to one outcome: exactly one of them writes the CNI
// configuration, the daemon that can or the tool beside the one that cannot.
func TestFlannelInstallsItsConfiguration(t *testing.T) {
	for _, published := range []bool{false, true} {
		manifests, err := Render(spec.DefaultLab("test"), func(short string) string { return "example.test/" + short + ":v1" }, published)
		if err != nil {
			t.Fatal(err)
		}
		var set appsv1.DaemonSet
		for dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests[Flannel].Objects), 4096); set.Kind != "DaemonSet"; {
			set = appsv1.DaemonSet{}
			if err := dec.Decode(&set); errors.Is(err, io.EOF) {
				t.Fatal("there is no DaemonSet")
			} else if err != nil {
				t.Fatal(err)
			}
		}
		pod := set.Spec.Template.Spec
		byDaemon := slices.Contains(pod.Containers[0].Args, "--cni-config-source=/etc/kube-flannel/cni-conf.json")
		byTool := len(pod.InitContainers) == 1 && pod.InitContainers[0].Command[0] == "/opt/bin/install-conf"
		if byDaemon == published || byTool != published {
			t.Errorf("published %t: the daemon installs it: %t, the tool: %t", published, byDaemon, byTool)
		}
	}
}
