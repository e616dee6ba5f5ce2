//! Alarms watch what is really counted.

use giemsa::metrics::{self, Metric};

use super::template::Template;

#[test]
fn alarms_watch_the_metrics_that_the_code_counts() {
    let template = Template::default();
    let alarm = template.properties("RefusedModel");
    assert_eq!(alarm["Namespace"], metrics::NAMESPACE);
    assert_eq!(alarm["MetricName"], Metric::ModelRefused.name());
    assert_eq!(alarm["Dimensions"][0]["Name"], "Stage");
    let queue = |alarm: &str| template.properties(alarm)["Dimensions"][0]["Value"].clone();
    assert_eq!(queue("UnreportedModels"), "${GateDeadLetterQueue.QueueName}");
    assert_eq!(queue("UnansweredImages"), "${ProdDeadLetterQueue.QueueName}");
}

#[test]
fn alarms_tell_by_mail_if_somebody_shall_be_told() {
    for alarm in Template::default().of_type("AWS::CloudWatch::Alarm") {
        assert!(Template::default().properties(&alarm)["AlarmActions"].is_null(), "{alarm}");
        let told = Template::with(&[("AlarmEmail", "lab@example.org")]).properties(&alarm);
        assert_eq!(told["AlarmActions"][0], "${AlarmTopic}", "{alarm}");
    }
}
