// What a dashboard of ours must be: Grafana's published types, with the options of each kind of panel, and a title, a
// description and a unit everywhere. Grafana's enums are written in JSON as their values, hence `Json`.
import type { AnnotationQuery, Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel } from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";
import type * as bargauge from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as statetimeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
// The one thing that @grafana/schema lacks: the query of the Prometheus data source.
import type { Dataquery } from "@grafana/grafana-foundation-sdk/prometheus";

type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}` ? N : never
    : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Query = Omit<Dataquery, "_implementsDataqueryVariant"> & Required<Pick<Dataquery, "expr" | "refId" | "legendFormat">>;

type Shown<Type extends string, Options, Custom> = Omit<Panel, "type" | "title" | "description" | "gridPos" | "targets" | "options" | "fieldConfig"> &
  Required<Pick<Panel, "title" | "description" | "gridPos">> & {
    type: Type;
    targets: Query[];
    options: Options;
    fieldConfig: Omit<FieldConfigSource, "defaults"> & { defaults: Omit<FieldConfig, "unit" | "custom"> & { unit: string; custom?: Custom } };
  };

type Kinds =
  | Shown<"bargauge", bargauge.Options, never>
  | Shown<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Shown<"stat", stat.Options, never>
  | Shown<"state-timeline", statetimeline.Options, statetimeline.FieldConfig>
  | Shown<"table", table.Options, Partial<table.FieldConfig>>
  | Shown<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | RowPanel;

// What the Prometheus data source adds to an annotation; not in the published types.
type PrometheusAnnotation = AnnotationQuery & { expr: string; step: string; titleFormat: string; textFormat: string; tagKeys: string; useValueForTime: boolean };

export type EdgellmDashboard = Json<
  Omit<Dashboard, "panels" | "annotations"> &
    Required<Pick<Dashboard, "uid" | "title" | "description" | "time" | "templating">> & { panels: Kinds[]; annotations: { list: PrometheusAnnotation[] } }
>;
