package larktest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

func helper(t *testing.T, p *Platform, method, path string, body io.Reader) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.URL+helperPath+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+granted(t, p, Alice).AccessToken)
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestEcho(t *testing.T) {
	p, _ := startAt(t, Config{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	response := helper(t, p, "DELETE", "echo/a%2Fb?q=%zz;x", bytes.NewReader(big))
	var echo Echo
	if err := json.NewDecoder(response.Body).Decode(&echo); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(big)
	if echo.Method != "DELETE" || echo.Target != helperPath+"echo/a%2Fb?q=%zz;x" || echo.BodySize != 1<<20 || echo.BodySHA256 != hex.EncodeToString(sum[:]) ||
		echo.Owner["open_id"] != Alice || echo.Header.Get("Authorization") != "REDACTED" {
		t.Errorf("echo: %+v", echo)
	}
	if c := p.Calls(To(API)); len(c) != 1 || c[0].BodySHA256 != echo.BodySHA256 || c[0].Owner != Alice {
		t.Errorf("calls: %+v", c)
	}
	if r := call(t, p, "GET", helperPath+"echo", "", ""); r.code() != 99991661 {
		t.Errorf("echo without a token: %s", r.Raw)
	}
}

// What was written must come back before the request has ended.
func TestStreamFullDuplex(t *testing.T) {
	p, _ := startAt(t, Config{})
	pr, pw := io.Pipe()
	response := helper(t, p, "POST", "stream", pr)
	buffer := make([]byte, 4)
	for _, word := range []string{"ping", "pong"} {
		io.WriteString(pw, word)
		if _, err := io.ReadFull(response.Body, buffer); err != nil || string(buffer) != word {
			t.Fatalf("%q %v", buffer, err)
		}
	}
	pw.Close()
	if rest := readAll(t, response.Body); rest != "" {
		t.Errorf("rest %q", rest)
	}
}

// An event comes when it is let out, not when the stream ends.
func TestSSE(t *testing.T) {
	p, _ := startAt(t, Config{})
	response := helper(t, p, "GET", "sse?n=2&gate=g", nil)
	lines := bufio.NewScanner(response.Body)
	for _, id := range []string{"1", "2"} {
		if !p.Emit("g", t.Context().Done()) {
			t.Fatal("nobody took the event")
		}
		if !lines.Scan() || lines.Text() != "id: "+id {
			t.Fatalf("got %q", lines.Text())
		}
		lines.Scan()
		if !strings.Contains(lines.Text(), Alice) {
			t.Errorf("data %q", lines.Text())
		}
		lines.Scan()
	}
	if lines.Scan() {
		t.Errorf("more: %q", lines.Text())
	}
}

func TestBytesSlowStatus(t *testing.T) {
	p, _ := startAt(t, Config{})
	body := readAll(t, helper(t, p, "GET", "bytes?n=300000", nil).Body)
	if len(body) != 300000 || body[299999] != PatternByte(299999) || body[70000] != PatternByte(70000) {
		t.Errorf("%d bytes", len(body))
	}
	response := helper(t, p, "GET", "status?code=307&location=https://elsewhere.example/", nil)
	if response.StatusCode != 307 || response.Header.Get("Location") != "https://elsewhere.example/" {
		t.Errorf("status: %d %v", response.StatusCode, response.Header)
	}
	if body := readAll(t, helper(t, p, "GET", "slow?delay=1ms&body=1ms", nil).Body); !strings.Contains(body, Alice) {
		t.Errorf("slow: %s", body)
	}
}
