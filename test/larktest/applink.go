package larktest

import (
	"net/url"
	"strings"
)

// InClient is what the Lark client opens for a link: of an AppLink that opens a
// web page, that page; every other link as it is.
// [D+] Lark "open a web page in Feishu" (client/web_url/open); [S] openclaw-lark
// sends its auth links so.
func InClient(link string) string {
	u, err := url.Parse(link)
	if err != nil || !strings.HasPrefix(u.Host, "applink.") || u.Path != "/client/web_url/open" {
		return link
	}
	if page := u.Query().Get("url"); page != "" {
		return page
	}
	return link
}
