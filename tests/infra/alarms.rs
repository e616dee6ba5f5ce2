//! Alarms watch what is really counted. That each fires is shown by `tests/stack/alarms.rs`.

use giemsa_store::metrics::{self, Metric};

use super::template::{STAGES, Template};

fn dimension(alarm: &str, name: &str) -> String {
    let properties = Template::default().properties(alarm);
    let dimensions = properties["Dimensions"].as_sequence().unwrap().iter();
    let found = dimensions.filter(|dimension| dimension["Name"] == name).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{alarm} has one {name}");
    found[0]["Value"].as_str().unwrap().to_owned()
}

#[test]
fn alarms_watch_the_metrics_that_the_code_counts() {
    for (name, stage) in STAGES {
        let alarm = format!("{name}ModelRefused");
        let properties = Template::default().properties(&alarm);
        assert_eq!(properties["Namespace"], metrics::NAMESPACE);
        assert_eq!(properties["MetricName"], Metric::ModelRefused.name());
        assert_eq!(dimension(&alarm, "Stage"), stage);
    }
}

#[test]
fn alarms_of_a_stage_watch_its_own_queues_and_function() {
    for (name, _) in STAGES {
        for (alarm, watched) in [("QueueAge", "Queue"), ("DeadLetters", "DeadLetterQueue")] {
            assert_eq!(
                dimension(&format!("{name}{alarm}"), "QueueName"),
                format!("${{{name}{watched}.QueueName}}")
            );
        }
        for alarm in ["Errors", "Throttles"] {
            assert_eq!(
                dimension(&format!("{name}{alarm}"), "FunctionName"),
                format!("${{{name}Classifier}}")
            );
        }
    }
    assert_eq!(dimension("GateDeadLetters", "QueueName"), "${GateDeadLetterQueue.QueueName}");
}

#[test]
fn alarms_tell_by_mail_if_somebody_shall_be_told() {
    for alarm in Template::default().of_type("AWS::CloudWatch::Alarm") {
        assert!(Template::default().properties(&alarm)["AlarmActions"].is_null(), "{alarm}");
        let told = Template::with(&[("AlarmEmail", "lab@example.org")]).properties(&alarm);
        assert_eq!(told["AlarmActions"][0], "${AlarmTopic}", "{alarm}");
    }
}

/// Metrics that CloudWatch charges an alarm for.
fn metrics_of(alarm: &str) -> usize {
    match Template::default().properties(alarm)["Metrics"].as_sequence() {
        Some(metrics) => metrics.iter().filter(|metric| !metric["MetricStat"].is_null()).count(),
        None => 1,
    }
}

#[test]
fn alarms_and_dashboards_are_those_that_giemsa_cost_reckons_with() {
    let template = Template::default();
    let alarms = template.of_type("AWS::CloudWatch::Alarm");
    let metrics: usize = alarms.iter().map(|alarm| metrics_of(alarm)).sum();
    assert_eq!(metrics as f64, giemsa_ops::cost::alarm_metrics(2));
    let of_prod_and_all = alarms.iter().filter(|alarm| !alarm.starts_with("Dev"));
    let metrics: usize = of_prod_and_all.map(|alarm| metrics_of(alarm)).sum();
    assert_eq!(metrics as f64, giemsa_ops::cost::alarm_metrics(1));
    assert_eq!(template.of_type("AWS::CloudWatch::Dashboard").len(), 1);
}
