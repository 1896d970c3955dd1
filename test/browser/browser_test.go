// Package browser has the tests that need a real browser: the click-through of
// card, Lark's page and ours, and how our pages look, in every language, light
// and dark, on a phone.
package browser

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"larkside/test/process"
)

// keep is where the pictures go; else they go with the test.
var keep = flag.String("screenshots", "", "keep the screenshots in this directory")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(process.Main(m))
}

// chromium is the browser's path. Without one the test is skipped by name, and
// fails with CI set.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no Chromium on PATH (chromium, chromium-browser, google-chrome)"
	if os.Getenv("CI") != "" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// browser is one Chromium with one tab, and a profile of its own.
type browser struct {
	t   *testing.T
	ctx context.Context // the tab

	mu         sync.Mutex
	complaints []string
}

func start(t *testing.T) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
	)
	allocated, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(allocated)
	// Closing waits for the process, so that its profile can be removed.
	t.Cleanup(func() { chromedp.Cancel(ctx); closeTab() })
	b := &browser{t: t, ctx: ctx}
	b.listen()
	return b
}

// listen notes what the console has to say.
func (b *browser) listen() {
	b.t.Helper()
	err := chromedp.Listen(b.ctx, func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded:
			// A page that is an error by its status is noted as one; that is meant.
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				b.complain(e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			b.complain(e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			b.complain(fmt.Sprintf("console.%s", e.Type))
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	call(b, log.Enable, cdp.Empty{})
	call(b, runtime.Enable, cdp.Empty{})
}

// call sends a command of the browser's protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, command, params); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, what)
}

// quiet checks that the console has said nothing since the last call.
func (b *browser) quiet(where string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaints {
		b.t.Errorf("%s: the console says %q", where, c)
	}
	b.complaints = nil
}

// run does what waits for a page at most as long as anything here waits.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, process.Patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// get is what an action brings.
func get[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, process.Patience)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// open loads a page and returns where that ended.
func (b *browser) open(url string) (at string) {
	b.t.Helper()
	b.run(chromedp.Navigate(url))
	return get(b, chromedp.Location())
}

// as makes the browser one of a phone whose owner reads lang and likes theme.
func (b *browser) as(lang, theme string, width, height int64) {
	b.t.Helper()
	agent := get(b, chromedp.Evaluate[string]("navigator.userAgent"))
	call(b, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: lang})
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}},
	})
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 2, Mobile: true,
	})
}

// shoot keeps a picture of the whole page.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := *keep
	if dir == "" {
		dir = b.t.TempDir()
	}
	picture := get(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// look is what the page says about itself.
type look struct {
	Lang, Title, Heading, Text string
	// Wide: it scrolls sideways. Contrast is the least between any text and its
	// ground (WCAG 2.2), Foreign what was loaded beside the page.
	Wide     bool
	Contrast float64
	Foreign  []string
	// Smallest is the size of the smallest text in pixels.
	Smallest float64
}

// lookScript runs in the browser. Every text of ours stands on an opaque ground.
const lookScript = `(() => {
	const rgb = s => s.match(/[\d.]+/g).map(Number);
	const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b; };
	const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
	const ratio = e => { const a = light(rgb(getComputedStyle(e).color).slice(0, 3)), b = light(ground(e).slice(0, 3));
		return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
	const texts = [...document.querySelectorAll("main, main *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
	return {
		Lang: document.documentElement.lang, Title: document.title, Heading: document.querySelector("h1").innerText,
		Text: document.body.innerText, Wide: document.documentElement.scrollWidth > innerWidth,
		Contrast: Math.min(...texts.map(ratio)), Smallest: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize))),
		Foreign: performance.getEntriesByType("resource").map(r => r.name),
	};
})()`

func (b *browser) look() look {
	b.t.Helper()
	return get(b, chromedp.Evaluate[look](lookScript))
}

// decent checks what holds for every page.
func (l look) decent(t *testing.T, lang string) {
	t.Helper()
	if l.Lang != lang || l.Title != l.Heading || l.Title == "" {
		t.Errorf("lang=%q, title %q, heading %q", l.Lang, l.Title, l.Heading)
	}
	if l.Wide {
		t.Error("the page scrolls sideways")
	}
	if l.Contrast < 4.5 || l.Smallest < 14 {
		t.Errorf("contrast %.2f, smallest text %gpx", l.Contrast, l.Smallest)
	}
	if slices.ContainsFunc(l.Foreign, func(url string) bool { return !strings.HasSuffix(url, "/favicon.ico") }) {
		t.Errorf("loaded beside the page: %v", l.Foreign)
	}
}

// await waits in the browser for a CSS selector.
func (b *browser) await(selector string) {
	b.t.Helper()
	b.run(chromedp.WaitVisible(chromedp.CSS(selector)))
}

// click presses what selector is the first of. A page that is being replaced may
// take it away between the search and the press; then it is searched again.
func (b *browser) click(selector string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, process.Patience)
	defer cancel()
	for {
		err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector)))
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "Could not find node with given id") {
			b.t.Fatal(err)
		}
	}
}
