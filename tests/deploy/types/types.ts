// What JSON must look like to be of Grafana's and the Prometheus operator's types: an enum is its value there.
import type { Dashboard } from "@grafana/schema";
import type { Options as HeatmapOptions } from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as TableOptions } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { Options as TextOptions } from "@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen";
import type { FieldConfig, Options as LineOptions } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { IPrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import type { IServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

type Loose<T> = T extends string ? `${T}`
  : T extends boolean ? T
  : T extends number ? (`${T}` extends `${infer N extends number}` ? N : number)
  : T extends object ? { [K in keyof T]: Loose<T[K]> }
  : T;

export type Board = Loose<Dashboard>;
export type Rule = IPrometheusRule;
export type Monitor = IServiceMonitor;
export type OptionsOf = {
  heatmap: Partial<Loose<HeatmapOptions>>;
  stat: Partial<Loose<StatOptions>>;
  table: Partial<Loose<TableOptions>>;
  text: Partial<Loose<TextOptions>>;
  timeseries: Loose<LineOptions>;
};
export type Lines = Partial<Loose<FieldConfig>>;
