package observe

import (
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

func TestDeprecatedAPIsAreRead(t *testing.T) {
	const metrics = `# TYPE apiserver_requested_deprecated_apis gauge
apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1
apiserver_requested_deprecated_apis{group="storage.k8s.io",removed_release="1.37",resource="volumeattributesclasses",subresource="",version="v1beta1"} 1
apiserver_requested_deprecated_apis{group="storage.k8s.io",removed_release="1.37",resource="volumeattributesclasses",subresource="status",version="v1beta1"} 1
apiserver_requested_deprecated_apis{group="gone",removed_release="1.37",resource="never",subresource="",version="v1"} 0
apiserver_request_total{group="storage.k8s.io"} 7
`
	want := []facts.DeprecatedAPI{{Version: "v1", Resource: "endpoints"}, {Group: "storage.k8s.io", Version: "v1beta1", Resource: "volumeattributesclasses", RemovedIn: "1.37"}}
	if got := deprecated([]byte(metrics)); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
