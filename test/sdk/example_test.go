package sdk

import (
	"context"
	"fmt"
	"log"
	"net/http"

	lark "github.com/larksuite/oapi-sdk-go/v3"
	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	larkapaas "github.com/larksuite/oapi-sdk-go/v3/service/apaas/v1"
)

// An app with the official SDK: Larkside is its base URL, and each call says for
// which user it is. There is no secret and no token in it.
func Example() {
	client := lark.NewClient("cli_a1b2c3d4e5f6", "larkside",
		lark.WithOpenBaseUrl("http://127.0.0.1:8080"),
		lark.WithEnableTokenCache(false))

	request := larkapaas.NewListWorkspaceTableReqBuilder().WorkspaceId("workspace_aadimx5uzpsls").Build()
	res, err := client.Apaas.V1.WorkspaceTable.List(context.Background(), request,
		larkcore.WithHeaders(http.Header{"X-Lark-User-Id": {"ou_7d8a6e6df7621556ce0d21922b676706"}}))
	if err != nil {
		log.Fatal(err)
	}
	if !res.Success() {
		// 401: the user has got a card; the link is in the header too.
		fmt.Println(res.Code, res.Msg, res.Header.Get("X-Larkside-Authorize-Url"))
		return
	}
	for _, table := range res.Data.Items {
		fmt.Println(*table.Name)
	}
}
