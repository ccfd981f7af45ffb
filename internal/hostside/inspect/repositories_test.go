package inspect

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRepositories(t *testing.T) {
	up := httptest.NewServer(http.NotFoundHandler())
	defer up.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer silent.Close()
	defer close(hang)
	var asked atomic.Int32
	shaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
	}))
	defer shaky.Close()
	// A mirror whose certificate is from a CA that only apt knows. It learns no login, as nobody has made sure who it is.
	own := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			t.Error("a login was sent")
		}
	}))
	defer own.Close()
	addresses := []string{up.URL + "/debian/", gone.URL, silent.URL, shaky.URL, "file:/var/repo", "http://mirror.invalid/",
		strings.Replace(own.URL, "https://", "https://user:password@", 1)}
	found := tryRepositories(t.Context(), addresses, nil, 500*time.Millisecond)
	for i, want := range []string{"", "refused", "Timeout", "", "", "mirror.invalid", ""} {
		if r := found[i]; r.Address != addresses[i] || (want == "") != (r.Error == "") || !strings.Contains(r.Error, want) {
			t.Errorf("found %+v, want %q", r, want)
		}
	}
}

// TestRepositoryAddresses reads what apt prints for repositories with and without suites, for sources, and for places that are
// not on the network.
func TestRepositoryAddresses(t *testing.T) {
	const list = `'http://deb.debian.org/debian/dists/bookworm/InRelease' deb.debian.org_debian_dists_bookworm_InRelease 0 
'http://deb.debian.org/debian/dists/bookworm-updates/InRelease' deb.debian.org_debian_dists_bookworm-updates_InRelease 0 
'http://deb.debian.org/debian/dists/bookworm/main/binary-amd64/Packages.xz' deb.debian.org_debian_dists_bookworm_main_binary-amd64_Packages 0 
'https://user:password@mirror.example.com/dists/deb/dists/stable/updates/InRelease' mirror.example.com_dists_deb_dists_stable_updates_InRelease 0 
'http://flat.example.com/repo/./InRelease' flat.example.com_repo_._InRelease 0 
'http://flat.example.com/repo/./Packages.xz' flat.example.com_repo_._Packages 0 
'file:/var/repo/./InRelease' _var_repo_._InRelease 0 
`
	want := []string{"file:/var/repo/./", "http://deb.debian.org/debian/", "http://flat.example.com/repo/./", "https://mirror.example.com/dists/deb/"}
	if got := repositoryAddresses(list); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := repositoryAddresses(""); len(got) != 0 {
		t.Errorf("without any: %q", got)
	}
}

func TestProxysPasswordIsKept(t *testing.T) {
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("an unverified proxy was asked") }))
	defer proxy.Close()
	settings := aptSettings("Acquire::http::Proxy=" + strings.Replace(proxy.URL, "https://", "https://user:password@", 1) + "\n")
	if found := tryRepositories(t.Context(), []string{"https://mirror.invalid/", "http://mirror.invalid/"}, aptProxy(settings, nil), time.Second); found[0].Error != "" || found[1].Error != "" {
		t.Errorf("found %+v", found)
	}
}

func TestAptDetectsProxy(t *testing.T) {
	for config, want := range map[string]bool{
		"Acquire::http::Proxy=http://proxy.example.com:3128\n":          false,
		"Acquire::http::Proxy-Auto-Detect=\n":                           false,
		"Acquire::http::Proxy-Auto-Detect=/usr/local/bin/proxy\n":       true,
		"Acquire::https::Proxy-Auto-Detect=/usr/local/bin/proxy\n":      true,
		"Acquire::http::ProxyAutoDetect=/usr/share/squid-deb-proxy/x\n": true,
	} {
		if got := detectsProxy(aptSettings(config)); got != want {
			t.Errorf("%q: %v", config, got)
		}
	}
}

func TestAptProxy(t *testing.T) {
	const config = "Acquire=\nAcquire::http::Proxy=http://proxy.example.com:3128\nAcquire::http::Proxy::near.example.com=DIRECT\n"
	for in, want := range map[string]string{
		"http://deb.debian.org/debian": "http://proxy.example.com:3128", "https://deb.debian.org/debian": "http://proxy.example.com:3128",
		"http://near.example.com/debian": "",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := aptProxy(aptSettings(config), nil)(&http.Request{URL: u})
		if err != nil || (got == nil) != (want == "") || got != nil && got.String() != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
}

// TestAptProxyOfTheSession counts where apt's configuration names none.
func TestAptProxyOfTheSession(t *testing.T) {
	session := []string{"https_proxy=http://proxy.example.com:3128", "NO_PROXY=near.example.com", "ALL_PROXY=http://other:1"}
	proxy := aptProxy(aptSettings("Acquire=\n"), session)
	for in, want := range map[string]string{
		"https://deb.debian.org/": "http://proxy.example.com:3128", "https://near.example.com/": "", "http://deb.debian.org/": "",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := proxy(&http.Request{URL: u})
		if err != nil || (got == nil) != (want == "") || got != nil && got.String() != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
}
